/**
 * Pictures: shown by their address; those that do not come are tried again some times, and when the server is back.
 * @module
 */

import { askForBlob, connection } from "./api.js";
import { make } from "./dom.js";
import { token } from "./token.js";

/** Pictures that did not come. @type {Set<HTMLImageElement>} */
const failed = new Set();
/** How often each was asked for again of itself. @type {WeakMap<HTMLImageElement, number>} */
const tries = new WeakMap();

/** How long to wait before each of them: what is wrong for longer than all of these is not busy but broken. */
const AGAIN_MS = [1000, 4000, 15_000];

function tryAgain() {
  const missing = [...failed].filter((each) => each.isConnected);
  failed.clear();
  for (const each of missing) {
    tries.delete(each);
    start(each);
  }
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
  forget(picture);
  picture.dataset.address = at;
  picture.onload = () => forget(picture);
  picture.onerror = () => miss(picture);
  start(picture);
}

/** Show nothing; what is on its way is not shown any more. */
export function showNothing(picture) {
  forget(picture);
  picture.removeAttribute("src");
  picture.alt = "";
  picture.dataset.address = "";
}

function start(picture) {
  picture.src = picture.dataset.address;
}

function miss(picture) {
  picture.classList.add("missing");
  failed.add(picture);
  const [tried, at] = [tries.get(picture) ?? 0, picture.dataset.address];
  if (tried === AGAIN_MS.length) return;
  setTimeout(() => {
    if (!picture.isConnected || picture.dataset.address !== at || !failed.delete(picture)) return;
    tries.set(picture, tried + 1);
    start(picture);
  }, AGAIN_MS[tried]);
}

/** Whatever did not come before is no matter now. */
function forget(picture) {
  picture.classList.remove("missing");
  failed.delete(picture);
  tries.delete(picture);
}

/** Save a picture under a name. */
export async function download(imageId, name) {
  const url = URL.createObjectURL(await askForBlob(address(imageId)));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the browser must have begun to read it
}
