/**
 * What this browser remembers. A browser that forbids it (private windows) only forgets.
 * @module
 */

/** The key names of `lastModelId` and `lastStepsValue` are fixed; all others begin with our name. */
export const LAST_MODEL = "lastModelId";
export const LAST_STEPS = "lastStepsValue";
export const FORM = "imagefleet.form";
export const EXTRAS = "imagefleet.extras";
export const JOBS = "imagefleet.jobs";
export const LEAVING = "imagefleet.leaving";

/** @param {string} key @returns {string|null} */
export function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string|null} value null forgets the key */
export function write(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // Nothing is lost but convenience.
  }
}

/** Read JSON back; `otherwise` when there is none, or none of the same kind (object, array). */
export function readJson(key, otherwise) {
  try {
    const found = JSON.parse(read(key) ?? "null");
    const fits = found !== null && typeof found === typeof otherwise && Array.isArray(found) === Array.isArray(otherwise);
    return fits ? found : otherwise;
  } catch {
    return otherwise;
  }
}

export function writeJson(key, value) {
  write(key, JSON.stringify(value));
}
