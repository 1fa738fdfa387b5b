/**
 * What is done with a picture: made a favourite, deleted (and brought back while there is time), drawn again.
 * @module
 */

import { ask, change } from "./api.js";
import { announce, button, byId, make } from "./dom.js";
import * as gallery from "./gallery.js";
import { adopt } from "./jobs.js";

/** So long a deleted picture can be brought back. */
const REGRET_MS = 7000;

const toast = byId("toast");

/** @type {{item: any, timer: number} | null} */
let leaving = null;

/** While a dialog is open nothing outside of it can be pressed: there the message stands inside of it. */
function place() {
  (document.querySelector("dialog[open]") ?? document.body).append(toast);
}

byId("viewer").addEventListener("close", place);
window.addEventListener("pagehide", () => leaving && forGood(true));

/** Make a picture a favourite, or an ordinary one again. Throws what the server says. */
export async function setFavourite(image, isFavourite) {
  await change("PATCH", pathOf(image), { favourite: isFavourite });
  image.favourite = isFavourite;
  gallery.showFavourite(image.image_id, isFavourite);
}

/** Delete a picture in a moment, unless the visitor regrets it. */
export function deleteSoon(image) {
  if (leaving) forGood();
  const item = gallery.takeOut(image.image_id);
  if (!item) return;
  leaving = { item, timer: setTimeout(forGood, REGRET_MS) };
  say("The picture is deleted.", button("Undo", regret, { class: "primary" }));
}

/** Draw a job's pictures once more, to see how near they come. Throws what the server says. */
export async function replay(jobId) {
  adopt(await ask(`/v1/jobs/${encodeURIComponent(jobId)}/replay`, {}));
}

function pathOf(image) {
  return `/v1/images/${encodeURIComponent(image.image_id)}`;
}

function regret() {
  if (!leaving) return;
  clearTimeout(leaving.timer);
  gallery.putBack(leaving.item);
  leaving = null;
  toast.hidden = true;
  announce("The picture is back.");
}

async function forGood(isLeaving = false) {
  const { item, timer } = leaving;
  leaving = null;
  clearTimeout(timer);
  toast.hidden = true;
  try {
    await change("DELETE", pathOf(item.image), undefined, { keepalive: isLeaving });
  } catch (problem) {
    if (problem.status === 404) return; // somebody else was faster
    gallery.putBack(item);
    say(`The picture could not be deleted: ${problem.message}`);
  }
}

function say(text, ...more) {
  toast.replaceChildren(make("span", { text }), ...more);
  place();
  toast.hidden = false;
  announce(text);
}
