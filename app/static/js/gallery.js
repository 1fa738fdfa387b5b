/**
 * The gallery: all pictures of completed jobs, newest first, fetched page by page while one scrolls.
 * @module
 */

import { ask } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { show } from "./pictures.js";

const PAGE = 30;

/** Wider than this, a panorama would leave no room in its row; narrower, a tower would be a line. */
const RATIO = { least: 0.5, most: 2.4 };

/** @type {{job: any, image: any, tile: HTMLElement}[]} newest first */
const items = [];
const list = byId("gallery");
const sentinel = byId("gallery-more");

const nearing = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) more();
}, { rootMargin: "800px" });

/** When the oldest job that was fetched was created; what is older comes next. */
let oldest = null;
let complete = false;
/** @type {Promise<void>|null} */
let loading = null;
let onOpen = (_position) => undefined;

/** Join the gallery to the page. @param {(position: number) => void} open shows a picture large */
export function setUpGallery(open) {
  onOpen = open;
  nearing.observe(sentinel);
}

/** @param {number} position @returns {{job: any, image: any} | undefined} */
export function itemAt(position) {
  return items[position];
}

/** @returns {number} -1 when it is not (yet) here */
export function positionOf(imageId) {
  return items.findIndex((item) => item.image.image_id === imageId);
}

export function focusOn(position) {
  const tile = items[position]?.tile.querySelector("button");
  tile?.focus({ preventScroll: true });
  tile?.scrollIntoView({ block: "nearest" });
}

/** Begin, or begin anew: fetch the newest page and put in what is not there yet. */
export async function refresh() {
  await load(null);
}

/** Fetch the next older page; does nothing when all are there. */
export async function more() {
  if (complete || !oldest) return;
  await load(oldest);
}

/** Put the pictures of a job in their place. */
export function add(job) {
  for (const [index, image] of job.images.entries()) {
    if (positionOf(image.image_id) >= 0) continue;
    const item = { job, image, tile: tileOf(job, image) };
    const older = items.findIndex((other) => isOlder(other, job, index));
    const position = older < 0 ? items.length : older;
    items.splice(position, 0, item);
    list.insertBefore(item.tile, items[position + 1]?.tile ?? null);
  }
  if (items.length) byId("gallery-empty").hidden = true;
}

function isOlder(other, job, index) {
  if (other.job.job_id === job.job_id) return other.job.images.indexOf(other.image) > index;
  return Date.parse(other.job.created_at) < Date.parse(job.created_at);
}

function load(before) {
  loading ??= loadPage(before).finally(() => { loading = null; });
  return loading;
}

async function loadPage(before) {
  const page = new URLSearchParams({ status: "completed", limit: String(PAGE) });
  if (before) page.set("before", before);
  try {
    const { jobs } = await ask(`/v1/jobs?${page}`);
    const apart = !jobs.some((job) => items.some((item) => item.job.job_id === job.job_id));
    for (const job of jobs) add(job);
    if (before || !oldest || apart) { // apart: so many are new that some between them and ours are missing
      oldest = jobs.at(-1)?.created_at ?? oldest;
      complete = jobs.length < PAGE;
    }
    tell(byId("gallery-problem"), "");
    byId("gallery-empty").hidden = items.length > 0;
  } catch (problem) {
    tell(byId("gallery-problem"), problem.message);
  }
  sentinel.hidden = complete || !oldest;
  nearing.unobserve(sentinel); // observed anew it tells at once where it is: a page may not fill a large window
  if (!byId("gallery-problem").textContent) nearing.observe(sentinel);
}

function tileOf(job, image) {
  const picture = /** @type {HTMLImageElement} */ (make("img"));
  const prompt = job.parameters.prompt;
  show(picture, image, { alt: prompt });
  const tile = make("li", {}, make("button", {
    type: "button",
    "aria-haspopup": "dialog",
    on: { click: () => onOpen(positionOf(image.image_id)) },
  }, picture, make("span", { class: "caption", text: prompt, "aria-hidden": "true", dir: "auto" })));
  const ratio = Math.min(RATIO.most, Math.max(RATIO.least, image.width / image.height));
  tile.style.setProperty("--ratio", ratio.toFixed(3));
  return tile;
}
