/**
 * What a model's options say about a number: a value, or `{"min", "max", "default"}`.
 * @module
 */

/** The value to begin with; undefined where the model leaves it open. */
export function defaultOf(option) {
  return isRange(option) ? option.default : option ?? undefined;
}

/**
 * Give a number field the model's limits, or its own again. They guide the field's arrows; the server judges.
 * @param {HTMLInputElement} input
 * @param {any} option
 */
export function applyLimits(input, option) {
  for (const limit of ["min", "max"]) {
    const key = `own${limit}`;
    input.dataset[key] ??= input[limit];
    const said = isRange(option) ? Number(option[limit] ?? NaN) : NaN;
    input[limit] = Number.isFinite(said) ? String(said) : input.dataset[key];
  }
}

function isRange(option) {
  return typeof option === "object" && option !== null;
}
