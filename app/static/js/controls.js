/**
 * Pictures that steer: poses, depths, edges. Each is a control picture already, or a photo that one is made from.
 * @module
 */

import { button, byId, make, tell } from "./dom.js";
import { showAt } from "./pictures.js";
import { ACCEPTED, addressOf, upload } from "./upload.js";

const KINDS = {
  openpose: "Pose (OpenPose)",
  depth: "Depth (MiDaS)",
  mediapipe_pose: "Pose (MediaPipe)",
  mediapipe_face: "Face (MediaPipe)",
  canny: "Edges (Canny)",
};

const list = byId("controls");
const adder = /** @type {HTMLInputElement} */ (byId("control-file"));

/** @type {{image: string, kind: string, weight: number, annotate: boolean}[]} */
let chosen = [];
let onChange = () => undefined;

/** Join the section to the page. @param {() => void} changed is told of every choice */
export function setUpControls(changed) {
  onChange = changed;
  adder.accept = ACCEPTED;
  adder.addEventListener("change", async () => {
    const file = adder.files?.[0];
    adder.value = "";
    if (!file) return;
    tell(byId("control-problem"), "");
    try {
      const sent = await upload(file);
      chosen = [...chosen, { image: sent.id, kind: "openpose", weight: 1, annotate: false }];
      drawAll();
      onChange();
    } catch (problem) {
      tell(byId("control-problem"), problem.message);
    }
  });
}

/** What of an order is about steering. @returns {Record<string, any>} */
export function controlsOf() {
  return chosen.length ? { controls: chosen } : {};
}

/** Take over what steers an order. */
export function takeControls(order) {
  const known = Array.isArray(order.controls) ? order.controls : [];
  chosen = known.map(({ image, kind, weight, annotate }) => ({ image, kind, weight: weight ?? 1, annotate: Boolean(annotate) }));
  if (chosen.length) /** @type {HTMLDetailsElement} */ (byId("control-section")).open = true;
  drawAll();
}

function drawAll() {
  list.replaceChildren(...chosen.map(rowOf));
  tell(byId("control-summary"), chosen.length ? String(chosen.length) : "");
}

function rowOf(control, place) {
  const picture = /** @type {HTMLImageElement} */ (make("img", { alt: `Control picture ${place + 1}`, width: "72", height: "72" }));
  showAt(picture, addressOf(control.image));
  const change = (name, value) => {
    control[name] = value;
    onChange();
  };
  const kind = /** @type {HTMLSelectElement} */ (make("select", {
    "aria-label": `What control picture ${place + 1} shows`, on: { change: () => change("kind", kind.value) },
  }, ...Object.entries(KINDS).map(([value, text]) => make("option", { value, text }))));
  kind.value = control.kind;
  const weight = /** @type {HTMLInputElement} */ (make("input", {
    type: "number", min: "0", max: "2", step: "0.05", value: String(control.weight), inputmode: "decimal",
    "aria-label": `Weight of control picture ${place + 1}`,
    on: { input: () => change("weight", Number.isFinite(weight.valueAsNumber) ? weight.valueAsNumber : 1) },
  }));
  const photo = /** @type {HTMLInputElement} */ (make("input", {
    type: "checkbox", on: { change: () => change("annotate", photo.checked) },
  }));
  photo.checked = control.annotate;
  return make("li", {},
    picture,
    make("div", { class: "control-about" }, kind,
      make("div", { class: "control-row" },
        make("label", { class: "check" }, photo, "from a photo"), weight,
        button("✕", () => {
          chosen = chosen.filter((each) => each !== control);
          drawAll();
          onChange();
          adder.focus();
        }, { class: "quiet icon", "aria-label": `Leave out control picture ${place + 1}` }))));
}
