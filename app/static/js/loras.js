/**
 * LoRAs of an order: which, and how much of each.
 * @module
 */

import { button, byId, make, tell } from "./dom.js";
import { models } from "./models.js";

const list = byId("loras");
const adder = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("lora-add")));

/** `text_weight`, for the text encoder, comes with orders only; it is dropped when the weight is changed here.
 * @type {{model_id: string, weight: number, text_weight?: number}[]} */
let chosen = [];
/** The base of the chosen checkpoint; LoRAs of others are not offered. */
let base = null;
let onChange = () => undefined;

/** Join the section to the page. @param {() => void} changed is told of every choice */
export function setUpLoras(changed) {
  onChange = changed;
  models.addEventListener("change", showOffers);
  adder.addEventListener("change", () => {
    if (adder.value) chosen = [...chosen, { model_id: adder.value, weight: 1 }];
    drawAll();
    onChange();
    /** @type {HTMLElement | null} */ (list.lastElementChild?.querySelector("input"))?.focus();
  });
}

/** Offer what fits a checkpoint. @param {any} model a catalogue entry, or undefined */
export function offerLorasFor(model) {
  base = model?.base ?? null;
  showOffers();
}

/** What of an order is about LoRAs. @returns {Record<string, any>} */
export function lorasOf() {
  return chosen.length ? { loras: chosen } : {};
}

/** Take over the LoRAs of an order. */
export function takeLoras(order) {
  const known = Array.isArray(order.loras) ? order.loras : [];
  chosen = known.map(({ model_id, weight, text_weight }) => ({
    model_id: String(model_id), weight: weight ?? 1, ...(text_weight === null || text_weight === undefined ? {} : { text_weight }),
  }));
  if (chosen.length) /** @type {HTMLDetailsElement} */ (byId("lora-section")).open = true;
  drawAll();
}

function offers() {
  const taken = new Set(chosen.map((lora) => lora.model_id));
  return models.all.filter((model) => model.kind === "lora" && !taken.has(model.id)
    && (!base || !model.base || model.base === base));
}

function showOffers() {
  const found = offers();
  const names = found.map((model) => model.id);
  const shown = [...adder.options].slice(1).map((option) => option.value);
  if (names.join("\n") !== shown.join("\n")) {
    adder.replaceChildren(make("option", { value: "", text: "Add a LoRA …" }),
      ...names.map((id) => make("option", { value: id, text: id })));
  }
  adder.disabled = names.length === 0;
  const any = models.all.some((model) => model.kind === "lora");
  tell(byId("lora-none"), names.length || chosen.length ? ""
    : any ? "None of the catalogue's LoRAs fits this model." : "The catalogue has no LoRAs yet.");
}

function drawAll() {
  list.replaceChildren(...chosen.map(rowOf));
  tell(byId("lora-summary"), chosen.length ? String(chosen.length) : "");
  showOffers();
}

function rowOf(lora) {
  const weight = /** @type {HTMLInputElement} */ (make("input", {
    type: "number", min: "-10", max: "10", step: "0.05", value: String(lora.weight), inputmode: "decimal",
    "aria-label": `Weight of ${lora.model_id}`,
    on: {
      input: () => {
        lora.weight = Number.isFinite(weight.valueAsNumber) ? weight.valueAsNumber : 1;
        delete lora.text_weight;
        onChange();
      },
    },
  }));
  const words = models.all.find((model) => model.id === lora.model_id)?.trigger_words ?? [];
  return make("li", {},
    make("span", { class: "name" }, lora.model_id,
      words.length ? make("span", { class: "hint", text: `Say in the prompt: ${words.slice(0, 5).join(", ")}` }) : null),
    weight,
    button("✕", () => {
      chosen = chosen.filter((each) => each !== lora);
      drawAll();
      onChange();
      adder.focus();
    }, { class: "quiet icon", "aria-label": `Leave out ${lora.model_id}` }));
}
