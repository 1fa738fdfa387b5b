/**
 * Pictures: shown by their address where the server is open, fetched with the token where it is not.
 * @module
 */

import { askForBlob, connection } from "./api.js";
import { make } from "./dom.js";
import { needed } from "./token.js";

/** How far outside the window a picture is fetched already. */
const AHEAD = "600px";

/** Pictures that did not come; they are tried again when the server is back. @type {Set<HTMLImageElement>} */
const failed = new Set();

const nearing = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    nearing.unobserve(entry.target);
    fetchInto(/** @type {HTMLImageElement} */ (entry.target));
  }
}, { rootMargin: AHEAD });

connection.addEventListener("change", () => {
  if (!connection.up) return;
  for (const picture of [...failed].filter((each) => each.isConnected)) start(picture, true);
  failed.clear();
});

function address(imageId) {
  return `/v1/images/${encodeURIComponent(imageId)}`;
}

/**
 * Show a picture in an element.
 * @param {HTMLImageElement} picture
 * @param {any} image one of a job's images; its size keeps the place while it loads
 * @param {{alt: string, now?: boolean}} about `now`: do not wait until it nears the window
 */
export function show(picture, image, { alt, now = false }) {
  picture.dataset.imageId = image.image_id;
  picture.width = image.width;
  picture.height = image.height;
  picture.alt = alt;
  picture.decoding = "async";
  picture.loading = now ? "eager" : "lazy";
  picture.classList.remove("missing");
  picture.onload = () => picture.classList.remove("missing");
  picture.onerror = () => miss(picture);
  start(picture, now);
}

function start(picture, now) {
  if (!needed) picture.src = address(picture.dataset.imageId);
  else if (now) fetchInto(picture);
  else nearing.observe(picture);
}

async function fetchInto(picture) {
  const imageId = picture.dataset.imageId;
  try {
    const url = URL.createObjectURL(await askForBlob(address(imageId)));
    const release = () => URL.revokeObjectURL(url);
    if (picture.dataset.imageId !== imageId) return release(); // it shows another one by now
    picture.addEventListener("load", release, { once: true });
    picture.addEventListener("error", release, { once: true });
    picture.src = url;
  } catch {
    if (picture.dataset.imageId === imageId) miss(picture);
  }
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
