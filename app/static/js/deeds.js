/**
 * What is done with a picture: made a favourite, deleted (and brought back while there is time), drawn again.
 * @module
 */

import { ask, change } from "./api.js";
import { announce, button, byId, make } from "./dom.js";
import * as gallery from "./gallery.js";
import { adopt } from "./jobs.js";
import { LEAVING, readJson, writeJson } from "./store.js";

/** So long a deleted picture can be brought back. */
const REGRET_MS = 7000;
/** So long after it another page waits for the one on which the picture was deleted. */
const COURTESY_MS = 1000;

const toast = byId("toast");

/** The one that can be brought back. It is noted in the browser too: a page may end before it could tell the server.
 * @type {{item: any, timer: number} | null} */
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
  note(image.image_id, Date.now() + REGRET_MS);
  say("The picture is deleted.", button("Undo", regret, { class: "primary" }));
}

/** Delete what an earlier visit was about to delete when it ended. */
export function finishDeleting() {
  for (const [imageId, until] of Object.entries(noted())) {
    gallery.hide(imageId);
    const wait = until - Date.now() + COURTESY_MS;
    setTimeout(finish, Math.min(Math.max(wait, 0), REGRET_MS + COURTESY_MS), imageId);
  }
}

/** Draw a job's pictures once more, to see how near they come. Throws what the server says. */
export async function replay(jobId) {
  adopt(await ask(`/v1/jobs/${encodeURIComponent(jobId)}/replay`, {}));
}

function pathOf(image) {
  return `/v1/images/${encodeURIComponent(image.image_id)}`;
}

/** @returns {Record<string, number>} the pictures' ids, with the moment until which each can be brought back, in ms */
function noted() {
  return readJson(LEAVING, {});
}

/** @param {string} imageId @param {number} [until] without it the note is taken away */
function note(imageId, until) {
  writeJson(LEAVING, { ...noted(), [imageId]: until });
}

function regret() {
  if (!leaving) return;
  const { item, timer } = leaving;
  leaving = null;
  clearTimeout(timer);
  note(item.image.image_id);
  gallery.putBack(item);
  toast.hidden = true;
  announce("The picture is back.");
}

async function forGood(isLeaving = false) {
  const { item, timer } = leaving;
  leaving = null;
  clearTimeout(timer);
  toast.hidden = true;
  try {
    await remove(item.image);
  } catch (problem) {
    if (isLeaving) return; // the next visit sees the note
    note(item.image.image_id);
    gallery.putBack(item);
    say(`The picture could not be deleted: ${problem.message}`);
  }
}

/** Without a note the other page has ended it already, one way or the other. */
async function finish(imageId) {
  try {
    if (imageId in noted()) await remove({ image_id: imageId });
    else bringBack(imageId);
  } catch (problem) {
    if (!(problem.status < 500)) return; // nobody answered, or could not: the next visit tries again
    note(imageId);
    bringBack(imageId);
  }
}

function bringBack(imageId) {
  gallery.letBack(imageId);
  gallery.refresh();
}

/** Delete a picture, even if the page ends meanwhile. Throws what the server says. */
async function remove(image) {
  try {
    await change("DELETE", pathOf(image), undefined, { keepalive: true });
  } catch (problem) {
    if (problem.status !== 404) throw problem; // else somebody was faster
  }
  note(image.image_id);
}

function say(text, ...more) {
  toast.replaceChildren(make("span", { text }), ...more);
  place();
  toast.hidden = false;
  announce(text);
}
