/**
 * The gallery: all pictures, newest first, fetched page by page while one scrolls; looked through by words, model, time.
 * @module
 */

import { ask } from "./api.js";
import { byId, make, tell } from "./dom.js";
import { models } from "./models.js";
import { show } from "./pictures.js";
import { Wall } from "./wall.js";

/** How many to ask for: what a window shows, and then as many as one scrolls past. */
const FIRST_PAGE = 30;
const PAGE = 200;
const TYPING_MS = 300;
const DAY_MS = 86_400_000;

/** @typedef {{job: any, image: any, at: number, tile: HTMLElement | null}} Item `at`: when it was drawn, in ms; `tile`: while
 * it hangs on the wall */

/** Newest first. @type {Item[]} */
let items = [];
/** The same by the pictures' ids. @type {Map<string, Item>} */
const known = new Map();
/** The ids of those that are being deleted: a list that still tells of them does not bring them back. @type {Set<string>} */
const hidden = new Set();
const wall = new Wall(byId("gallery"), tileOf, fetchPicture);
const sentinel = byId("gallery-more");
const search = /** @type {HTMLInputElement} */ (byId("gallery-search"));
const model = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("gallery-model")));
const days = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("gallery-days")));
const favourites = byId("gallery-favourites");

const nearing = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) more();
}, { rootMargin: "800px" });

/** Where the next older page begins; null before the first page and after the last one. @type {string | null} */
let next = null;
let begun = false;
/** @type {Promise<void>|null} */
let loading = null;
/** What comes for an earlier question is thrown away. */
let question = 0;
let onOpen = (_position) => undefined;

/** Join the gallery to the page. @param {(position: number) => void} open shows a picture large */
export function setUpGallery(open) {
  onOpen = open;
  nearing.observe(sentinel);
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(askAnew, TYPING_MS);
  });
  for (const select of [model, days]) select.addEventListener("change", askAnew);
  favourites.addEventListener("click", () => {
    favourites.setAttribute("aria-pressed", String(!onlyFavourites()));
    askAnew();
  });
  models.addEventListener("change", showModels);
}

/** @param {number} position @returns {Item | undefined} */
export function itemAt(position) {
  return items[position];
}

/** @returns {number} -1 when it is not (yet) here */
export function positionOf(imageId) {
  const item = known.get(imageId);
  return item ? items.indexOf(item) : -1;
}

export function focusOn(position) {
  wall.reveal(position)?.querySelector("button")?.focus({ preventScroll: true });
}

/** Begin, or look for what is new: fetch the newest page and put in what is not there yet. */
export async function refresh() {
  await load(null);
}

/** Fetch the next older page; does nothing when all are there. */
export async function more() {
  if (next) await load(next);
}

/** Put the pictures of a job in their place, if they are what is looked for. */
export function add(job) {
  const at = Date.parse(job.ended_at ?? job.created_at);
  for (const image of job.images) put(job, { favourite: false, ...image }, at);
  hang();
}

/** Take a picture out of sight; `putBack` brings it back. @returns {Item | undefined} */
export function takeOut(imageId) {
  const item = known.get(imageId);
  if (!item) return undefined;
  hide(imageId);
  items = items.filter((each) => each !== item);
  known.delete(imageId);
  hang();
  return item;
}

/** @param {Item} item */
export function putBack(item) {
  letBack(item.image.image_id);
  put(item.job, item.image, item.at);
  hang();
}

/** Do not show a picture that is not here yet. */
export function hide(imageId) {
  hidden.add(imageId);
}

/** Show it again when a list tells of it. */
export function letBack(imageId) {
  hidden.delete(imageId);
}

/** Show whether a picture is a favourite. */
export function showFavourite(imageId, isFavourite) {
  const item = known.get(imageId);
  if (!item) return;
  item.image.favourite = isFavourite;
  if (item.tile) item.tile.dataset.favourite = isFavourite ? "yes" : "no";
}

function put(job, image, at) {
  if (known.has(image.image_id) || hidden.has(image.image_id) || !isWanted(job, image, at)) return;
  const item = { job, image, at, tile: null };
  let [low, high] = [0, items.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBefore(item, items[middle])) high = middle;
    else low = middle + 1;
  }
  items.splice(low, 0, item);
  known.set(image.image_id, item);
}

/** The newer one comes first; of pictures of the same moment those of a job stand in its order. */
function isBefore(one, other) {
  return one.at > other.at || (one.at === other.at && one.image.seed < other.image.seed);
}

function hang() {
  wall.show(items);
  showEmpty();
}

function onlyFavourites() {
  return favourites.getAttribute("aria-pressed") === "true";
}

function since() {
  return days.value ? Date.now() - Number(days.value) * DAY_MS : 0;
}

function isWanted(job, image, at) {
  const words = search.value.trim().toLowerCase();
  return (!words || String(job.parameters.prompt).toLowerCase().includes(words))
    && (!model.value || job.model_id === model.value)
    && at >= since()
    && (!onlyFavourites() || image.favourite);
}

function isFiltered() {
  return Boolean(search.value.trim() || model.value || days.value || onlyFavourites());
}

function askAnew() {
  question += 1;
  loading = null;
  dropAll();
  next = null;
  begun = false;
  wall.show(items);
  refresh();
}

function load(after) {
  if (loading) return loading;
  const mine = loadPage(after, question).finally(() => {
    if (loading === mine) loading = null;
  });
  loading = mine;
  return mine;
}

async function loadPage(after, asked) {
  const page = new URLSearchParams({ limit: String(after ? PAGE : FIRST_PAGE) });
  if (after) page.set("after", after);
  if (search.value.trim()) page.set("search", search.value.trim());
  if (model.value) page.set("model_id", model.value);
  if (days.value) page.set("since", new Date(since()).toISOString());
  if (onlyFavourites()) page.set("favourite", "true");
  try {
    const found = await ask(`/v1/images?${page}`);
    if (asked !== question) return;
    const apart = !found.images.some((image) => known.has(image.image_id));
    if (!after && begun && apart) dropAll(); // so many are new that some between them and ours are missing
    for (const image of found.images) put(jobOf(image), image, Date.parse(image.created_at));
    if (after || !begun || apart) next = found.next;
    begun = true;
    tell(byId("gallery-problem"), "");
  } catch (problem) {
    if (asked !== question) return;
    tell(byId("gallery-problem"), problem.message);
  }
  hang();
  sentinel.hidden = !next;
  nearing.unobserve(sentinel); // observed anew it tells at once where it is: a page may not fill a large window
  if (!byId("gallery-problem").textContent) nearing.observe(sentinel);
}

function dropAll() {
  items = [];
  known.clear();
}

function showEmpty() {
  const empty = begun && items.length === 0;
  byId("gallery-empty").hidden = !empty || isFiltered();
  byId("gallery-none").hidden = !empty || !isFiltered();
  byId("gallery-filters").hidden = begun && empty && !isFiltered();
}

/** What a listed picture says about its job. */
function jobOf(image) {
  const { job_id, model_id, created_at, parameters } = image;
  return { job_id, model_id, created_at, parameters, images: [image] };
}

function showModels() {
  const ids = models.list.filter((each) => !each.engine).map((each) => each.id);
  const shown = [...model.options].slice(1).map((option) => option.value);
  if (ids.join("\n") === shown.join("\n")) return;
  const wanted = model.value;
  model.replaceChildren(make("option", { value: "", text: "All models" }), ...ids.map((id) => make("option", { value: id, text: id })));
  model.value = wanted;
  if (model.selectedIndex >= 0) return;
  model.value = "";
  askAnew();
}

function tileOf({ job, image }) {
  const prompt = job.parameters.prompt;
  const picture = make("img", { alt: prompt });
  return make("li", { data: { favourite: image.favourite ? "yes" : "no" } }, make("button", {
    type: "button",
    "aria-haspopup": "dialog",
    on: { click: () => onOpen(positionOf(image.image_id)) },
  }, picture, make("span", { class: "caption", text: prompt, "aria-hidden": "true", dir: "auto" })));
}

function fetchPicture({ job, image, tile }) {
  show(tile.querySelector("img"), image, { alt: job.parameters.prompt, small: true, now: true });
}
