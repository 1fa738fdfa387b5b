/**
 * Engines: checkpoints with all that belongs to them, kept in the memory of a machine. Made, started, stopped, deleted.
 * @module
 */

import { ask, askAll, change } from "./api.js";
import { button, byId, make, tell } from "./dom.js";
import { follow as followModels, models } from "./models.js";
import { bytes } from "./words.js";

const EVERY_MS = 2000;
const DOT = { Ready: "ready", Working: "processing", Starting: "downloading", Closed: "closed" };

const form = /** @type {HTMLFormElement} */ (byId("engine-form"));
const list = byId("engines");
const choice = (id) => /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId(id)));
const checkpoint = choice("engine-checkpoint");
const vae = choice("engine-vae");
const loras = byId("engine-loras");

/** What is shown, so that only changes are drawn. */
let drawn = "";
let looking = false;
let timer = 0;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  create();
});
checkpoint.addEventListener("change", showParts);
models.addEventListener("change", showChoices);
document.addEventListener("visibilitychange", look);

/** Look while the view is open; stop when it is not. @param {boolean} open */
export function setOpen(open) {
  looking = open;
  clearTimeout(timer);
  if (!open) return;
  showChoices();
  look();
}

async function look() {
  clearTimeout(timer);
  if (!looking || document.hidden) return;
  try {
    draw(await askAll("/v1/engines", "engines"));
    tell(byId("engines-problem"), "");
  } catch (problem) {
    tell(byId("engines-problem"), problem.message);
  }
  clearTimeout(timer);
  if (looking) timer = setTimeout(look, EVERY_MS);
}

function draw(engines) {
  byId("engines-empty").hidden = engines.length > 0;
  const now = JSON.stringify(engines);
  if (now === drawn) return;
  drawn = now;
  const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.deed;
  list.replaceChildren(...engines.map(cardOf));
  if (focused) /** @type {HTMLElement | null} */ (list.querySelector(`[data-deed="${CSS.escape(focused)}"]`))?.focus();
}

function cardOf(engine) {
  const facts = [
    engine.vae && `VAE ${engine.vae}`,
    engine.loras.length && `LoRAs ${engine.loras.map((id) => `${id} (${engine.lora_weights[id]})`).join(", ")}`,
    engine.embeddings.length && `embeddings ${engine.embeddings.join(", ")}`,
    engine.controlnet.length && `ControlNets ${engine.controlnet.join(", ")}`,
  ].filter(Boolean);
  return make("li", { class: "machine", data: { state: DOT[engine.status] } },
    make("h3", { text: engine.checkpoint }),
    make("p", { class: "state" }, make("span", { class: "dot" }), make("span", { class: "detail", text: stateWords(engine) })),
    facts.length ? make("p", { text: facts.join(" · ") }) : null,
    make("p", { class: "hint", text: memoryWords(engine) }),
    engine.error ? make("p", { class: "reason bad", text: engine.error.message }) : null,
    make("div", { class: "actions" }, ...deedsOf(engine)));
}

function stateWords(engine) {
  const where = engine.machine_id ? ` on ${engine.machine_id}` : "";
  if (engine.stopping) return `Stopping${where}, once its job has ended`;
  return engine.status === "Closed" ? "Closed" : `${engine.status}${where}`;
}

function memoryWords(engine) {
  if (engine.bytes_measured) return `${bytes(engine.bytes_measured)} of memory, estimated ${bytes(engine.bytes_estimated ?? 0)}`;
  if (engine.bytes_estimated) return `about ${bytes(engine.bytes_estimated)} of memory, estimated from the files`;
  return "Its memory is known once a machine holds the model.";
}

function deedsOf(engine) {
  const path = `/v1/engines/${encodeURIComponent(engine.engine_id)}`;
  const deed = (text, method, at, about = {}) => button(text, () => act(method, path + at), {
    data: { deed: `${engine.engine_id} ${text}` }, "aria-label": `${text} the engine of ${engine.checkpoint}`, ...about,
  });
  if (engine.status !== "Closed") return [deed("Stop", "POST", "/stop", { disabled: engine.stopping })];
  return [
    deed("Start", "POST", "/start", { class: "primary" }),
    button("Delete", () => {
      if (confirm(`Delete the engine of ${engine.checkpoint}, and all of its jobs with their pictures?`)) act("DELETE", path);
    }, { class: "quiet", "aria-label": `Delete the engine of ${engine.checkpoint}`, data: { deed: `${engine.engine_id} Delete` } }),
  ];
}

async function act(method, path) {
  try {
    await change(method, path);
    tell(byId("engines-problem"), "");
  } catch (problem) {
    tell(byId("engines-problem"), problem.message);
  }
  followModels(); // engines can be chosen in the form
  await look();
}

/** Offer the catalogue; what was chosen stays. */
function showChoices() {
  form.classList.toggle("waiting", !models.known); // its LoRAs would push the rest of it down
  offer(checkpoint, models.all.filter((model) => model.kind === "checkpoint"), null);
  showParts();
}

function showParts() {
  const base = models.all.find((model) => model.id === checkpoint.value)?.base;
  const fitting = (kind) => models.all.filter((model) => model.kind === kind && (!base || !model.base || model.base === base));
  offer(vae, fitting("vae"), "The model's own");
  const names = fitting("lora").map((model) => model.id);
  const shown = [...loras.querySelectorAll("input")].map((box) => box.value);
  if (names.join("\n") === shown.join("\n")) return;
  loras.replaceChildren(...names.map((id) => make("label", { class: "check" }, make("input", { type: "checkbox", value: id }), id)));
  byId("engine-loras-field").hidden = names.length === 0;
}

function offer(select, found, otherwise) {
  const wanted = select.value;
  const options = found.map((model) => make("option", { value: model.id, text: model.id }));
  if (otherwise !== null) options.unshift(make("option", { value: "", text: otherwise }));
  const texts = options.map((option) => option.textContent).join("\n");
  if ([...select.options].map((option) => option.text).join("\n") === texts) return;
  select.replaceChildren(...options);
  select.value = wanted;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

async function create() {
  tell(byId("engine-problem"), "");
  const number = (id) => {
    const field = /** @type {HTMLInputElement} */ (byId(id));
    return field.value === "" ? null : Number(field.value);
  };
  const chosen = [...loras.querySelectorAll("input:checked")].map((box) => /** @type {HTMLInputElement} */ (box).value);
  try {
    await ask("/v1/engines", {
      checkpoint: checkpoint.value,
      vae: vae.value || null,
      loras: chosen,
      default_scheduler: choice("engine-scheduler").value || null,
      default_steps: number("engine-steps"),
      default_cfg: number("engine-guidance"),
    });
    form.reset();
    showChoices();
    followModels();
    await look();
  } catch (problem) {
    tell(byId("engine-problem"), problem.message);
  }
}
