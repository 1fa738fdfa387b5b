/**
 * Painting a mask over a picture: what is painted is drawn anew. The mask is a picture of the same size, white there.
 * @module
 */

import { askForBlob } from "./api.js";
import { byId, tell } from "./dom.js";
import { addressOf, upload } from "./upload.js";

/** Larger pictures are painted on in this size; the machine fits the mask to the picture. */
const MOST_SIDE = 1536;
const PAINT = "#ff3b6b";

const dialog = /** @type {HTMLDialogElement} */ (byId("mask-dialog"));
const canvas = /** @type {HTMLCanvasElement} */ (byId("mask-canvas"));
const brush = /** @type {HTMLInputElement} */ (byId("brush"));
const ground = /** @type {HTMLImageElement} */ (byId("mask-ground"));

/** @type {CanvasRenderingContext2D} */
const pen = canvas.getContext("2d", { willReadFrequently: true });

/** What was there before each stroke. @type {ImageData[]} */
let undoable = [];
const MOST_UNDO = 20;

/** @type {((result: string | null | undefined) => void) | null} */
let settle = null;
/** Where the last stroke was. @type {{x: number, y: number} | null} */
let last = null;

setUp();

/**
 * Let the visitor paint.
 * @param {string} pictureId
 * @param {string | null} maskId to go on with
 * @returns {Promise<string | null | undefined>} the mask's id; null: nothing is masked; undefined: leave it as it was
 */
export async function paintMask(pictureId, maskId) {
  tell(byId("mask-problem"), "");
  undoable = [];
  dialog.showModal();
  const result = new Promise((resolve) => { settle = resolve; });
  try {
    await load(pictureId, maskId);
    canvas.focus();
  } catch (problem) {
    tell(byId("mask-problem"), problem.message || "The picture could not be read.");
  }
  return result;
}

async function load(pictureId, maskId) {
  const bitmap = await createImageBitmap(await askForBlob(addressOf(pictureId)));
  const scale = Math.min(1, MOST_SIDE / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  brush.value = String(Math.round(Math.min(canvas.width, canvas.height) / 8));
  await showGround(bitmap);
  if (maskId) await loadMask(maskId);
  show();
}

async function showGround(bitmap) {
  const behind = document.createElement("canvas");
  behind.width = canvas.width;
  behind.height = canvas.height;
  behind.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  ground.src = behind.toDataURL("image/png");
  await ground.decode().catch(() => undefined);
}

/** Turn a mask, white on black, back into paint. */
async function loadMask(maskId) {
  const bitmap = await createImageBitmap(await askForBlob(addressOf(maskId)));
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const data = pen.getImageData(0, 0, canvas.width, canvas.height);
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(PAINT.slice(at, at + 2), 16));
  for (let at = 0; at < data.data.length; at += 4) {
    const painted = data.data[at] > 127;
    data.data.set([red, green, blue, painted ? 255 : 0], at);
  }
  pen.putImageData(data, 0, 0);
}

function setUp() {
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    keepForUndo();
    last = placeOf(event);
    stroke(last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) stroke(placeOf(each));
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => {
    last = null;
    show();
  });
  byId("mask-undo").addEventListener("click", undo);
  byId("mask-clear").addEventListener("click", () => change(() => pen.clearRect(0, 0, canvas.width, canvas.height)));
  byId("mask-invert").addEventListener("click", () => change(invert));
  byId("mask-all").addEventListener("click", () => change(() => fillAll()));
  byId("mask-cancel").addEventListener("click", () => dialog.close());
  byId("mask-save").addEventListener("click", save);
  dialog.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
    else if (event.key === "[") brush.stepDown(4);
    else if (event.key === "]") brush.stepUp(4);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("close", () => finish(undefined));
}

function finish(result) {
  settle?.(result);
  settle = null;
  if (dialog.open) dialog.close();
}

function placeOf(event) {
  const frame = canvas.getBoundingClientRect(); // the canvas fills it one way, and stands in its middle the other
  const scale = Math.min(frame.width / canvas.width, frame.height / canvas.height);
  return {
    x: (event.clientX - frame.left - (frame.width - canvas.width * scale) / 2) / scale,
    y: (event.clientY - frame.top - (frame.height - canvas.height * scale) / 2) / scale,
  };
}

function stroke(to) {
  const erases = /** @type {HTMLInputElement} */ (byId("mask-erase")).checked;
  pen.globalCompositeOperation = erases ? "destination-out" : "source-over";
  pen.strokeStyle = PAINT;
  pen.lineWidth = Number(brush.value);
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(last.x, last.y);
  pen.lineTo(to.x + 0.01, to.y); // a line to itself would paint nothing
  pen.stroke();
  pen.globalCompositeOperation = "source-over";
  last = to;
}

function change(how) {
  keepForUndo();
  how();
  show();
}

function keepForUndo() {
  undoable.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  if (undoable.length > MOST_UNDO) undoable.shift();
}

function undo() {
  const before = undoable.pop();
  if (before) pen.putImageData(before, 0, 0);
  show();
}

function fillAll() {
  pen.fillStyle = PAINT;
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

function invert() {
  pen.globalCompositeOperation = "xor";
  fillAll();
  pen.globalCompositeOperation = "source-over";
}

function show() {
  /** @type {HTMLButtonElement} */ (byId("mask-undo")).disabled = undoable.length === 0;
}

/** Make the mask: white where there is paint, black elsewhere; null when there is none. */
function maskOf() {
  const data = pen.getImageData(0, 0, canvas.width, canvas.height);
  let any = false;
  for (let at = 0; at < data.data.length; at += 4) {
    const white = data.data[at + 3] > 127 ? 255 : 0;
    any ||= white > 0;
    data.data.set([white, white, white, 255], at);
  }
  if (!any) return null;
  const drawn = document.createElement("canvas");
  drawn.width = canvas.width;
  drawn.height = canvas.height;
  drawn.getContext("2d").putImageData(data, 0, 0);
  return drawn;
}

async function save() {
  const drawn = maskOf();
  if (!drawn) return finish(null);
  const button = /** @type {HTMLButtonElement} */ (byId("mask-save"));
  button.disabled = true;
  try {
    const blob = await new Promise((resolve) => drawn.toBlob(resolve, "image/png"));
    const sent = await upload(blob);
    finish(sent.id);
  } catch (problem) {
    tell(byId("mask-problem"), problem.message);
  } finally {
    button.disabled = false;
  }
}
