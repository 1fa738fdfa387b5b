/**
 * The picture to begin with: chosen, dropped or pasted; how much of it is drawn anew, and where.
 * @module
 */

import { announce, byId, tell } from "./dom.js";
import { showAt } from "./pictures.js";
import { addressOf, pictureIn, upload } from "./upload.js";

const USUAL_STRENGTH = "0.75";

const section = /** @type {HTMLDetailsElement} */ (byId("beginning"));
const chooser = /** @type {HTMLInputElement} */ (byId("begin-file"));
const picture = /** @type {HTMLImageElement} */ (byId("begin-picture"));
const strength = /** @type {HTMLInputElement} */ (byId("strength"));
const resize = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("resize-mode")));
const onlyMasked = /** @type {HTMLInputElement} */ (byId("only-masked"));

/** @type {import("./upload.js").Sent | null} */
let chosen = null;
/** Id of the mask. @type {string | null} */
let mask = null;
let onChange = () => undefined;
/** Only the last of several that were chosen in haste counts. */
let round = 0;

/**
 * Join the section to the page.
 * @param {() => void} changed is told of every choice
 * @param {(size: {width: number, height: number}) => void} takeShape is asked to take the picture's proportions
 */
export function setUpBeginning(changed, takeShape) {
  onChange = changed;
  chooser.addEventListener("change", () => {
    if (chooser.files?.length) begin(chooser.files[0]);
    chooser.value = ""; // the same file again is news, too
  });
  strength.addEventListener("input", showStrength);
  picture.addEventListener("load", () => { // an order's picture comes without its size
    if (chosen) chosen = { ...chosen, width: picture.naturalWidth, height: picture.naturalHeight };
  });
  byId("begin-remove").addEventListener("click", () => take(null));
  byId("begin-shape").addEventListener("click", () => chosen && takeShape(chosen));
  byId("mask-paint").addEventListener("click", paint);
  byId("mask-remove").addEventListener("click", () => {
    mask = null;
    show();
    onChange();
  });
  const place = byId("begin-drop");
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.dataset.over = "yes";
  });
  for (const end of ["dragleave", "drop"]) place.addEventListener(end, () => delete place.dataset.over);
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation(); // elsewhere on the page a dropped picture fills the form
    const dropped = pictureIn(event.dataTransfer);
    if (dropped) begin(dropped);
    else tell(byId("begin-problem"), "Only PNG, JPEG and WebP pictures can be used.");
  });
  document.addEventListener("paste", (event) => {
    const pasted = pictureIn(event.clipboardData);
    if (!pasted) return;
    event.preventDefault();
    begin(pasted);
  });
  show();
}

/** Send a picture, and begin with it. @param {Blob} file */
export async function begin(file) {
  section.open = true;
  const mine = ++round;
  tell(byId("begin-problem"), "");
  byId("begin-drop").dataset.busy = "yes";
  try {
    const sent = await upload(file);
    if (mine === round) take(sent);
  } catch (problem) {
    if (mine === round) tell(byId("begin-problem"), problem.message);
  }
  if (mine === round) delete byId("begin-drop").dataset.busy;
}

/** Begin with a picture that the server has, or with none. @param {import("./upload.js").Sent | null} sent */
function take(sent) {
  if (sent?.id !== chosen?.id) mask = null;
  chosen = sent;
  tell(byId("begin-problem"), "");
  show();
  onChange();
  announce(sent ? `The order begins with this picture, ${sent.width} by ${sent.height} pixels.` : "The order begins with no picture.");
}

/** What of an order is about the picture to begin with. @returns {Record<string, any>} */
export function beginningOf() {
  if (!chosen) return {};
  const order = { image: chosen.id, strength: Number(strength.value), resize_mode: resize.value };
  if (mask) order.mask = { image: mask, only_masked: onlyMasked.checked };
  return order;
}

/** Take over what an order says about its beginning; the rest of its fields is no matter. */
export function takeBeginning(order) {
  round += 1; // whatever is on its way comes too late
  chosen = order.image ? { id: order.image, width: 0, height: 0 } : null;
  mask = order.image ? order.mask?.image ?? null : null;
  strength.value = String(order.strength ?? USUAL_STRENGTH);
  resize.value = order.resize_mode ?? "crop";
  onlyMasked.checked = Boolean(order.mask?.only_masked);
  if (chosen) section.open = true;
  show();
}

async function paint() {
  if (!chosen) return;
  const { paintMask } = await import("./mask.js"); // only those who paint need it
  const painted = await paintMask(chosen.id, mask);
  if (painted === undefined) return;
  mask = painted;
  show();
  onChange();
}

function show() {
  byId("begin-chosen").hidden = !chosen;
  byId("begin-empty").hidden = Boolean(chosen);
  byId("mask-remove").hidden = !mask;
  byId("mask-options").hidden = !mask;
  byId("mask-paint").textContent = mask ? "Change the mask" : "Paint a mask";
  tell(byId("begin-summary"), chosen ? (mask ? "a picture with a mask" : "a picture") : "");
  if (chosen && picture.dataset.address !== addressOf(chosen.id)) {
    showAt(picture, addressOf(chosen.id));
  }
  showStrength();
}

function showStrength() {
  byId("strength-value").textContent = Number(strength.value).toFixed(2);
}
