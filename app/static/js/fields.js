/**
 * The fields of the form: reading them into an order, filling them, and remembering them.
 * @module
 */

import { byId } from "./dom.js";
import { extrasOf, takeExtras } from "./extras.js";
import { drawerIn } from "./models.js";
import { applyLimits, defaultOf } from "./options.js";
import { FORM, LAST_MODEL, LAST_STEPS, readJson, write, writeJson } from "./store.js";

const input = (id) => /** @type {HTMLInputElement} */ (byId(id));

export const field = {
  model: /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("model"))),
  prompt: input("prompt"),
  negative: input("negative-prompt"),
  steps: input("steps"),
  width: input("width"),
  height: input("height"),
  guidance: input("guidance"),
  scheduler: /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("scheduler"))),
  seed: input("seed"),
  count: input("count"),
};

/** Remembered beside the model and the steps, which have keys of their own. */
export const OWN = ["prompt", "negative", "seed", "count"];
export const OF_THE_MODEL = ["width", "height", "guidance", "scheduler"];
const REMEMBERED = [...OWN, ...OF_THE_MODEL];

/** Whole numbers and others, by the name that the order uses. */
const NUMBERS = [
  [field.steps, "steps", "Steps"],
  [field.width, "width", "Width"],
  [field.height, "height", "Height"],
  [field.guidance, "guidance_scale", "Guidance"],
  [field.seed, "seed", "Seed"],
  [field.count, "n", "Pictures"],
];

/**
 * Read the order as it stands; fields left empty are left to the model.
 * Limits are the server's to judge: it knows its own, and says them in words.
 * @returns {{order: Record<string, any>, problem: string, at: HTMLElement | null}}
 */
export function readOrder() {
  const nothing = (problem, at) => ({ order: {}, problem, at });
  if (!field.model.value) return nothing("There is no model to draw with yet.", field.model);
  if (!field.prompt.value.trim()) return nothing("Write a prompt first.", field.prompt);
  const order = { ...drawerIn(field.model.value), prompt: field.prompt.value };
  if (field.negative.value.trim()) order.negative_prompt = field.negative.value;
  if (field.scheduler.value) order.scheduler = field.scheduler.value;
  Object.assign(order, extrasOf());
  for (const [where, name, title] of NUMBERS) {
    if (where.validity.badInput) return nothing(`${title} must be a number.`, where);
    if (where.value !== "") order[name] = Number(where.value);
  }
  return { order, problem: "", at: null };
}

/** Fill fields out of an order's parameters; what they do not name is emptied. */
export function fill(parameters) {
  const put = (where, value, otherwise = "") => { where.value = String(value ?? otherwise); };
  put(field.prompt, parameters.prompt);
  put(field.negative, parameters.negative_prompt);
  put(field.width, parameters.width);
  put(field.height, parameters.height);
  put(field.guidance, parameters.guidance_scale);
  put(field.scheduler, parameters.scheduler);
  put(field.seed, parameters.seed);
  put(field.count, parameters.n, "1");
  takeExtras(parameters);
}

/** Fill the fields that a model has defaults for, and empty those that it leaves open. */
export function fillDefaults(options) {
  const chosen = options ?? {};
  for (const [where, name] of [[field.width, "width"], [field.height, "height"], [field.guidance, "guidance_scale"]]) {
    applyLimits(where, chosen[name]);
    where.value = String(defaultOf(chosen[name]) ?? "");
  }
  field.scheduler.value = String(defaultOf(chosen.scheduler) ?? "");
  if (field.scheduler.selectedIndex < 0) field.scheduler.value = "";
}

/** Remember everything for the next visit. */
export function remember() {
  if (field.model.value) write(LAST_MODEL, field.model.value);
  write(LAST_STEPS, field.steps.value);
  writeJson(FORM, { ...readJson(FORM, {}), ...Object.fromEntries(REMEMBERED.map((name) => [name, field[name].value])) });
}

/** Fill in what was remembered of some fields: OWN at once, OF_THE_MODEL when the model is known. */
export function recall(names) {
  const found = readJson(FORM, {});
  for (const name of names) if (typeof found[name] === "string") field[name].value = found[name];
  if (field.scheduler.selectedIndex < 0) field.scheduler.value = "";
  if (!field.count.value) field.count.value = "1";
}

/** The seed of the job sent last, for "again". */
export function lastSeed() {
  const seed = readJson(FORM, {}).lastSeed;
  return Number.isInteger(seed) ? seed : null;
}

export function rememberSeed(seed) {
  writeJson(FORM, { ...readJson(FORM, {}), lastSeed: seed });
}
