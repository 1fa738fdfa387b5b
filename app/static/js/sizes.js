/**
 * Proportions to choose from, at the number of pixels that a model was trained for.
 * @module
 */

import { make } from "./dom.js";
import { defaultOf } from "./options.js";

const PROPORTIONS = [[1, 1], [4, 3], [3, 4], [16, 9], [9, 16]];

/** Sides that families of models were trained with, in pixels. */
const SIDE = { sd1: 512, sd15: 512, sd2: 768, sd21: 768, sdxl: 1024, pony: 1024, sd3: 1024, sd35: 1024, flux: 1024 };
const USUAL_SIDE = 512;

/**
 * The five sizes for a model.
 * @param {any} model a catalogue entry, or undefined
 * @param {number} grid sizes are multiples of it
 */
export function presetsOf(model, grid) {
  return PROPORTIONS.map(([across, down]) => ({
    name: `${across}:${down}`,
    ...sizeLike(model, grid, { width: across, height: down }),
  }));
}

/**
 * The size for a model that has somebody's proportions.
 * @param {any} model a catalogue entry, or undefined
 * @param {number} grid sizes are multiples of it
 * @param {{width: number, height: number}} shape
 */
export function sizeLike(model, grid, shape) {
  const options = model?.options ?? {};
  const [width, height] = [Number(defaultOf(options.width)), Number(defaultOf(options.height))];
  const side = width > 0 && height > 0
    ? Math.sqrt(width * height)
    : SIDE[String(model?.base ?? "").toLowerCase()] ?? USUAL_SIDE;
  const coarse = side >= 512 ? 64 : grid; // round numbers where there is room for them
  return {
    width: fit(side * Math.sqrt(shape.width / shape.height), coarse),
    height: fit(side * Math.sqrt(shape.height / shape.width), coarse),
  };
}

function fit(length, grid) {
  return Math.max(grid, Math.round(length / grid) * grid);
}

/**
 * Draw the presets as buttons.
 * @param {HTMLElement} place
 * @param {{name: string, width: number, height: number}[]} presets
 * @param {(preset: {width: number, height: number}) => void} onChoice
 */
export function drawPresets(place, presets, onChoice) {
  place.replaceChildren(...presets.map((preset) => {
    const shape = make("span", { class: "shape", "aria-hidden": "true" });
    const [across, down] = preset.name.split(":").map(Number);
    shape.style.aspectRatio = `${across} / ${down}`;
    shape.style[across >= down ? "width" : "height"] = "1.1rem";
    return make("button", {
      type: "button",
      class: "preset",
      title: `${preset.width} × ${preset.height}`,
      "aria-pressed": "false",
      data: { width: preset.width, height: preset.height },
      on: { click: () => onChoice(preset) },
    }, shape, preset.name);
  }));
}

/** Mark the preset that the fields show. */
export function markPreset(place, width, height) {
  for (const preset of place.children) {
    preset.setAttribute("aria-pressed", String(preset.dataset.width === width && preset.dataset.height === height));
  }
}
