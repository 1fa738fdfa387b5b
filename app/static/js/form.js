/**
 * The form: which fields a model leaves open, what they begin with, and sending them.
 * @module
 */

import { announce, byId, make, tell } from "./dom.js";
import { field, fill, fillDefaults, lastSeed, OF_THE_MODEL, OWN, readOrder, recall, remember, rememberSeed } from "./fields.js";
import { setUpExtras } from "./extras.js";
import { offerLargerFor } from "./larger.js";
import { offerLorasFor } from "./loras.js";
import { choiceOf, modelOf, models, statusWords } from "./models.js";
import { drawPresets, markPreset, presetsOf, sizeLike } from "./sizes.js";
import { applyRule, stepRule, USUAL, wish } from "./steps.js";
import { LAST_MODEL, LAST_STEPS, read, write } from "./store.js";
import { bytes } from "./words.js";

const form = /** @type {HTMLFormElement} */ (byId("generate-form"));
const shownSteps = byId("steps-value");
const presets = byId("size-presets");
const GRID = Number(field.width.step);

let rule = USUAL;
/** Whether the fields have got their first values; before that the catalogue has not come. */
let settled = false;

/**
 * Join the form to the page.
 * @param {(order: Record<string, any>) => void} onOrder
 */
export function setUpForm(onOrder) {
  models.addEventListener("change", showModels);
  field.model.addEventListener("change", () => {
    write(LAST_MODEL, field.model.value);
    takeModel();
    remember();
  });
  field.steps.addEventListener("input", () => {
    shownSteps.textContent = field.steps.value;
    write(LAST_STEPS, field.steps.value);
  });
  form.addEventListener("input", () => {
    tell(byId("form-problem"), "");
    if (settled) remember();
    showSize();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(onOrder);
  });
  recall(OWN); // before anybody has typed a letter
  setUpSizes();
  setUpSeed();
  setUpExtras(takeShape);
}

function send(onOrder) {
  const { order, problem, at } = readOrder();
  tell(byId("form-problem"), problem);
  for (const each of Object.values(field)) each.removeAttribute("aria-invalid");
  if (problem) {
    at?.setAttribute("aria-invalid", "true");
    at?.focus();
    return;
  }
  remember();
  onOrder(order);
}

/** Show the catalogue in the select; the choice stays, whatever comes and goes. */
function showModels() {
  if (!models.list.length) return showStatus();
  const wanted = field.model.value || read(LAST_MODEL);
  const names = models.list.map((model) => (model.engine ? model.name : model.id) + (model.availability === "ready" ? "" : ` (${model.availability})`));
  const shown = [...field.model.options].map((option) => option.text);
  if (names.join("\n") !== shown.join("\n")) { // an open list would close
    field.model.replaceChildren(...names.map((text, at) => make("option", { value: models.list[at].id, text })));
  }
  const first = models.list.find((model) => model.availability === "ready") ?? models.list[0];
  field.model.value = (modelOf(wanted) ?? first)?.id ?? "";
  if (!settled) settle();
  else if (field.model.value !== wanted) takeModel(); // the chosen one has left the catalogue
  showStatus();
}

/** Give the fields their first values: the model's, under what was remembered. */
function settle() {
  settled = true;
  takeModel();
  recall(OF_THE_MODEL);
  wish(field.steps, shownSteps, rule, read(LAST_STEPS));
  showSize();
  showSeed();
}

/** Take over what the chosen model says about steps, size, guidance and scheduler. */
function takeModel() {
  const model = modelOf(field.model.value);
  rule = stepRule(model?.options);
  applyRule(field.steps, shownSteps, rule);
  tell(byId("steps-note"), rule.fixed ? `This model draws with exactly ${rule.value}.` : "");
  fillDefaults(model?.options);
  offerLorasFor(model);
  offerLargerFor(model);
  drawPresets(presets, presetsOf(model, GRID), takeSize);
  showSize();
  showStatus();
}

function showStatus() {
  const model = modelOf(field.model.value);
  const place = byId("model-status");
  place.dataset.state = model?.availability ?? "absent";
  const words = model ? statusWords(model) : models.problem || "The catalogue is empty";
  place.querySelector(".words").textContent = words;
  const about = model?.description || [model?.kind, model?.base, model?.size_bytes && bytes(model.size_bytes)].filter(Boolean).join(" · ");
  byId("model-about").textContent = about;
  byId("model-about").title = about; // one line of it is shown
}

function setUpSizes() {
  drawPresets(presets, presetsOf(undefined, GRID), takeSize);
  byId("swap-size").addEventListener("click", () => takeSize({ width: field.height.value, height: field.width.value }));
}

/** Take a picture's proportions, with as many pixels as the model likes. */
function takeShape(picture) {
  takeSize(sizeLike(modelOf(field.model.value), GRID, picture));
}

function takeSize({ width, height }) {
  field.width.value = String(width);
  field.height.value = String(height);
  remember();
  showSize();
}

function showSize() {
  markPreset(presets, field.width.value, field.height.value);
}

function setUpSeed() {
  byId("seed-again").addEventListener("click", () => takeSeed(lastSeed() ?? ""));
  byId("seed-random").addEventListener("click", () => takeSeed(""));
  showSeed();
}

function takeSeed(seed) {
  field.seed.value = String(seed);
  remember();
}

function showSeed() {
  /** @type {HTMLButtonElement} */ (byId("seed-again")).disabled = lastSeed() === null;
}

/** Keep the seed of the job that was accepted last, so that it can be taken again. */
export function noteSeed(seed) {
  rememberSeed(seed);
  showSeed();
}

/** Put a prompt into the form, ready to be sent. */
export function suggest(prompt) {
  field.prompt.value = prompt;
  remember();
  field.prompt.focus();
}

/** Fill the form with what a job was drawn with. */
export function takeSettings(parameters) {
  const known = modelOf(choiceOf(parameters)) ?? modelOf(parameters.model_id); // an engine may be gone
  if (known) {
    field.model.value = known.id;
    takeModel();
  }
  fill(parameters);
  wish(field.steps, shownSteps, rule, parameters.steps);
  if (field.scheduler.selectedIndex < 0) field.scheduler.value = "";
  remember();
  showSize();
  location.hash = "#make";
  field.prompt.focus();
  form.scrollIntoView({ block: "start", behavior: "smooth" });
  const missing = known ? "" : `${parameters.model_id ?? "Its model"} is not in the catalogue; choose another model.`;
  tell(byId("form-problem"), missing);
  announce(`The form has these settings now. ${missing}`);
}
