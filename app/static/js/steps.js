/**
 * How many steps a model draws with: exactly so many, a range, or as usual.
 * @module
 */

/** For a model that says nothing about steps. */
export const USUAL = { fixed: false, min: 20, max: 50, value: 30 };

/**
 * Read the rule for the slider out of a model's options.
 * @param {any} options `{"fixed_steps": n}`, `{"steps": {"min", "max", "default"}}`, or neither
 * @returns {{fixed: boolean, min: number, max: number, value: number}}
 */
export function stepRule(options) {
  const fixed = whole(options?.fixed_steps);
  if (fixed) return { fixed: true, min: Math.min(USUAL.min, fixed), max: Math.max(USUAL.max, fixed), value: fixed };
  const said = options?.steps;
  const range = typeof said === "object" && said !== null ? said : { default: said };
  const [min, max, value] = [whole(range.min), whole(range.max), whole(range.default)];
  if (!min && !max && !value) return USUAL;
  const low = min ?? Math.min(USUAL.min, max ?? USUAL.min, value ?? USUAL.min);
  const high = Math.max(low, max ?? Math.max(USUAL.max, value ?? 0));
  return { fixed: false, min: low, max: high, value: clamp(value ?? USUAL.value, low, high) };
}

/**
 * Put a rule on the slider.
 * @param {HTMLInputElement} slider
 * @param {HTMLElement} shown where the value stands as a number
 * @param {{fixed: boolean, min: number, max: number, value: number}} rule
 */
export function applyRule(slider, shown, rule) {
  slider.min = String(rule.min); // the limits first: a value outside the old ones would be bent
  slider.max = String(rule.max);
  slider.value = String(rule.value);
  slider.disabled = rule.fixed;
  shown.textContent = slider.value;
}

/** Take a wished value where the rule leaves a choice and allows it. */
export function wish(slider, shown, rule, value) {
  const wished = whole(value);
  if (rule.fixed || !wished || wished < rule.min || wished > rule.max) return;
  slider.value = String(wished);
  shown.textContent = slider.value;
}

function whole(value) {
  const number = Number(value);
  return value !== null && value !== "" && Number.isInteger(number) && number > 0 ? number : undefined;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
