/**
 * What few orders say: another VAE, embeddings, a second and larger pass, enlarging at the end.
 * @module
 */

import { ask } from "./api.js";
import { button, byId, make, tell } from "./dom.js";
import { models } from "./models.js";

const section = /** @type {HTMLDetailsElement} */ (byId("more-section"));
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));
const choice = (id) => /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId(id)));
const [vae, adder, hiresBy, upscaleBy] = ["vae", "embedding-add", "hires-by", "upscale-by"].map(choice);
const [hires, hiresStrength, upscale] = ["hires", "hires-strength", "upscale"].map(input);
const fields = [vae, hires, hiresBy, hiresStrength, upscale, upscaleBy];

/** Embeddings that an order named beside its prompt. @type {string[]} */
let embeddings = [];
/** The base of the chosen checkpoint; what is made for others is not offered. */
let base = null;
/** Whether the server has said what enlarges. */
let asked = false;
let onChange = () => undefined;

/** Join the section to the page. @param {() => void} changed is told of every choice */
export function setUpLarger(changed) {
  onChange = changed;
  models.addEventListener("change", showOffers);
  section.addEventListener("toggle", () => section.open && askForUpscalers());
  adder.addEventListener("change", () => {
    const prompt = input("prompt");
    prompt.value = [prompt.value.trim(), adder.value].filter(Boolean).join(", ");
    prompt.dispatchEvent(new Event("input", { bubbles: true }));
    adder.value = "";
  });
  for (const each of fields) {
    each.addEventListener("input", () => {
      showSummary();
      onChange();
    });
  }
}

/** Offer what fits a checkpoint. @param {any} model a catalogue entry, or undefined */
export function offerLargerFor(model) {
  base = model?.base ?? null;
  showOffers();
}

/** What of an order is set here. @returns {Record<string, any>} */
export function largerOf() {
  const order = {};
  if (vae.value) order.vae = vae.value;
  if (embeddings.length) order.embeddings = embeddings;
  if (hires.valueAsNumber > 0) order.hires = { scale: hires.valueAsNumber, upscaler: hiresBy.value, strength: Number(hiresStrength.value) };
  if (upscale.valueAsNumber > 0) order.upscale = { factor: upscale.valueAsNumber, upscaler: upscaleBy.value };
  return order;
}

/** Take over what an order says of these; what it does not name is emptied. */
export function takeLarger(order) {
  embeddings = Array.isArray(order.embeddings) ? order.embeddings.map(String) : [];
  choose(vae, order.vae ?? order.vae_id ?? "");
  hires.value = String(order.hires?.scale ?? "");
  choose(hiresBy, order.hires?.upscaler ?? "Latent");
  hiresStrength.value = String(order.hires?.strength ?? 0.7);
  upscale.value = String(order.upscale?.factor ?? "");
  choose(upscaleBy, order.upscale?.upscaler ?? "Lanczos");
  showEmbeddings();
  showSummary();
  if (Object.keys(largerOf()).length) section.open = true;
}

/** Choose what may not be offered yet: an order comes before the catalogue does. */
function choose(select, value) {
  if (value && ![...select.options].some((option) => option.value === value)) select.append(make("option", { value, text: value }));
  select.value = value;
}

function showSummary() {
  byId("hires-more").hidden = !(hires.valueAsNumber > 0);
  tell(byId("more-summary"), Object.keys(largerOf()).length ? String(Object.keys(largerOf()).length) : "");
}

function fitting(kind) {
  return models.all.filter((model) => model.kind === kind && (!base || !model.base || model.base === base)).map((model) => model.id);
}

function showOffers() {
  offer(vae, "The model's own", fitting("vae"));
  offer(adder, "Put one into the prompt …", fitting("embedding"));
  byId("embedding-field").hidden = adder.options.length === 1 && !embeddings.length;
}

/** @param {HTMLSelectElement} select @param {string} first @param {string[]} names */
function offer(select, first, names) {
  const shown = [...select.options].map((option) => option.value).slice(1);
  const wanted = select.value;
  const all = wanted && !names.includes(wanted) ? [...names, wanted] : names;
  if (all.join("\n") === shown.join("\n")) return;
  select.replaceChildren(make("option", { value: "", text: first }), ...all.map((value) => make("option", { value, text: value })));
  select.value = wanted;
}

async function askForUpscalers() {
  if (asked) return;
  asked = true;
  try {
    const { upscalers } = await ask("/v1/upscalers");
    for (const [select, found] of [[hiresBy, upscalers], [upscaleBy, upscalers.filter((each) => !each.latent)]]) {
      const wanted = select.value;
      select.replaceChildren(...found.map(({ name }) => make("option", { value: name, text: name })));
      choose(select, wanted);
    }
  } catch {
    asked = false; // opened again, it asks again
  }
}

function showEmbeddings() {
  byId("embeddings").replaceChildren(...embeddings.map((id) => make("li", {}, make("span", { class: "name", text: id }), make("span"),
    button("✕", () => {
      embeddings = embeddings.filter((each) => each !== id);
      showEmbeddings();
      showSummary();
      onChange();
      adder.focus();
    }, { class: "quiet icon", "aria-label": `Leave out ${id}` }))));
  showOffers();
}
