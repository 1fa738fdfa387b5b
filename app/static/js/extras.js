/**
 * What an order brings along beside its words and numbers: a picture to begin with, LoRAs, what steers it, what is cut out.
 * @module
 */

import { beginningOf, setUpBeginning, takeBeginning } from "./beginning.js";
import { controlsOf, setUpControls, takeControls } from "./controls.js";
import { byId } from "./dom.js";
import { largerOf, setUpLarger, takeLarger } from "./larger.js";
import { lorasOf, setUpLoras, takeLoras } from "./loras.js";
import { EXTRAS, readJson, writeJson } from "./store.js";

const cutOut = /** @type {HTMLInputElement} */ (byId("cut-out"));

/**
 * Join the sections to the page, and bring back what was remembered.
 * @param {(size: {width: number, height: number}) => void} takeShape is asked to take a picture's proportions
 */
export function setUpExtras(takeShape) {
  setUpBeginning(remember, takeShape);
  setUpLoras(remember);
  setUpControls(remember);
  setUpLarger(remember);
  cutOut.addEventListener("change", remember);
  for (const id of ["strength", "resize-mode", "only-masked"]) byId(id).addEventListener("change", remember);
  takeExtras(readJson(EXTRAS, {}), false);
}

/** What of an order is set here. @returns {Record<string, any>} */
export function extrasOf() {
  return { ...beginningOf(), ...lorasOf(), ...controlsOf(), ...largerOf(), ...(cutOut.checked ? { remove_background: true } : {}) };
}

/** Take over what an order brings along; what it does not name is emptied. */
export function takeExtras(order, isNews = true) {
  takeBeginning(order);
  takeLoras(order);
  takeControls(order);
  takeLarger(order);
  cutOut.checked = Boolean(order.remove_background);
  if (isNews) remember();
}

function remember() {
  writeJson(EXTRAS, extrasOf());
}
