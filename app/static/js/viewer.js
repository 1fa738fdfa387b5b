/**
 * One picture in full: arrows turn the pages of the gallery, Escape goes back to it.
 * @module
 */

import { deleteSoon, replay, setFavourite } from "./deeds.js";
import { byId, make, tell } from "./dom.js";
import { takeSettings } from "./form.js";
import { focusOn, itemAt, more, positionOf } from "./gallery.js";
import { asText, fileName, rows } from "./order.js";
import { download, show, showNothing } from "./pictures.js";

const dialog = /** @type {HTMLDialogElement} */ (byId("viewer"));
const picture = /** @type {HTMLImageElement} */ (byId("viewer-picture"));
const news = byId("viewer-news");

/** A small picture is not blown up further than this. */
const MOST_ZOOM = 4;

/** The picture, not its number: new ones may come in before it meanwhile. @type {{job: any, image: any} | null} */
let shown = null;

/** Join the full view to the page. */
export function setUpViewer() {
  byId("viewer-close").addEventListener("click", () => dialog.close());
  byId("viewer-previous").addEventListener("click", () => turn(-1));
  byId("viewer-next").addEventListener("click", () => turn(1));
  byId("viewer-copy").addEventListener("click", copyAll);
  byId("viewer-download").addEventListener("click", save);
  byId("viewer-use").addEventListener("click", use);
  byId("viewer-favourite").addEventListener("click", favour);
  byId("viewer-replay").addEventListener("click", drawAgain);
  byId("viewer-delete").addEventListener("click", remove);
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
    else if (event.key === "Delete") remove();
    else if (event.key === "f") favour();
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target === picture.parentElement) dialog.close();
  });
  dialog.addEventListener("close", () => {
    if (shown && location.hash !== "#fleet") focusOn(position());
    shown = null;
    showNothing(picture);
  });
}

function position() {
  return shown ? positionOf(shown.image.image_id) : -1;
}

/** Show the picture at a place of the gallery. */
export function openViewer(at) {
  const item = itemAt(at);
  if (!item) return;
  shown = item;
  const { job, image } = item;
  showNothing(picture); // the last one must not stand there while this one comes
  show(picture, image, { alt: job.parameters.prompt, now: true });
  picture.style.setProperty("--widest", `${image.width * MOST_ZOOM}px`);
  picture.style.setProperty("--highest", `${image.height * MOST_ZOOM}px`);
  byId("viewer-prompt").textContent = job.parameters.prompt;
  byId("viewer-parameters").replaceChildren(...rows(job, image).flatMap(([name, value]) => [
    make("dt", { text: name }), make("dd", { text: value }),
  ]));
  showFavourite(image);
  enable("viewer-previous", at > 0);
  tell(news, "");
  showNext();
  if (!dialog.open) {
    dialog.showModal();
    dialog.focus();
  }
}

/** Know before the end whether there is more. */
async function showNext() {
  if (!itemAt(position() + 1)) await more();
  enable("viewer-next", Boolean(itemAt(position() + 1)));
}

/** A button that is switched off must not take the focus with it: the arrow keys would be heard no more. */
function enable(id, on) {
  const turner = /** @type {HTMLButtonElement} */ (byId(id));
  if (!on && document.activeElement === turner) dialog.focus();
  turner.disabled = !on;
}

function turn(by) {
  const to = position() + by;
  if (itemAt(to)) openViewer(to);
}

function use() {
  const { job, image } = shown;
  shown = null; // the form gets the focus, not the tile
  dialog.close();
  takeSettings({ ...job.parameters, engine_id: job.engine_id, seed: image.seed, n: 1 });
}

function showFavourite(image) {
  const star = byId("viewer-favourite");
  star.setAttribute("aria-pressed", String(Boolean(image.favourite)));
  star.textContent = image.favourite ? "★ Favourite" : "☆ Favourite";
}

async function favour() {
  const { image } = shown;
  try {
    await setFavourite(image, !image.favourite);
    showFavourite(shown?.image ?? image);
  } catch (problem) {
    tell(news, problem.message);
  }
}

async function drawAgain() {
  const { job } = shown;
  try {
    await replay(job.job_id);
    dialog.close();
  } catch (problem) {
    tell(news, problem.message);
  }
}

/** Delete what is shown, and go on to the next one; the last one closes the view. */
function remove() {
  const { image } = shown;
  const at = position();
  const following = itemAt(at + 1) ?? itemAt(at - 1);
  deleteSoon(image);
  if (following) openViewer(positionOf(following.image.image_id));
  else dialog.close();
}

async function save() {
  const { job, image } = shown;
  try {
    await download(image.image_id, fileName(job, image));
  } catch (problem) {
    tell(news, problem.message);
  }
}

async function copyAll() {
  const text = asText(shown.job, shown.image);
  const done = await copy(text);
  tell(news, done ? "Copied: prompt and all parameters." : "The browser does not let this page copy.");
}

/** Copy a text; over plain HTTP from another computer browsers have no clipboard, only the old way. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = /** @type {HTMLTextAreaElement} */ (make("textarea", { class: "unseen", "aria-hidden": "true" }));
    area.value = text;
    dialog.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    byId("viewer-copy").focus();
    return done;
  }
}
