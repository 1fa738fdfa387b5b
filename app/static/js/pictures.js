/**
 * Pictures: shown by their address, and tried again when the server is back.
 * @module
 */

import { askForBlob, connection } from "./api.js";
import { make } from "./dom.js";
import { token } from "./token.js";

/** Pictures that did not come; they are tried again when the server is back. @type {Set<HTMLImageElement>} */
const failed = new Set();

function tryAgain() {
  const missing = [...failed].filter((each) => each.isConnected);
  failed.clear();
  missing.forEach(start);
}

connection.addEventListener("change", () => connection.up && tryAgain());
token.addEventListener("change", tryAgain);

function address(imageId) {
  return `/v1/images/${encodeURIComponent(imageId)}`;
}

/**
 * Show a picture in an element.
 * @param {HTMLImageElement} picture
 * @param {any} image one of a job's images; its size keeps the place while it loads
 * @param {{alt: string, now?: boolean, small?: boolean}} about `now`: do not wait until it nears the window; `small`: its
 *     thumbnail is enough
 */
export function show(picture, image, { alt, now = false, small = false }) {
  picture.dataset.imageId = image.image_id;
  picture.width = image.width;
  picture.height = image.height;
  picture.alt = alt;
  picture.decoding = "async";
  picture.loading = now ? "eager" : "lazy";
  showAt(picture, address(image.image_id) + (small ? "/thumbnail" : ""));
}

/**
 * Show in an element what is at an address of the server.
 * @param {HTMLImageElement} picture
 * @param {string} at
 */
export function showAt(picture, at) {
  picture.dataset.address = at;
  picture.classList.remove("missing");
  picture.onload = () => picture.classList.remove("missing");
  picture.onerror = () => miss(picture);
  start(picture);
}

/** Show nothing; what is on its way is not shown any more. */
export function showNothing(picture) {
  picture.removeAttribute("src");
  picture.dataset.address = "";
}

function start(picture) {
  picture.src = picture.dataset.address;
}

function miss(picture) {
  picture.classList.add("missing");
  failed.add(picture);
}

/** Save a picture under a name. */
export async function download(imageId, name) {
  const url = URL.createObjectURL(await askForBlob(address(imageId)));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the browser must have begun to read it
}
