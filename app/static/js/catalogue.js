/**
 * The catalogue: every model with how far the fleet is with it; adding, changing and deleting entries.
 * @module
 */

import { ask, askAll, change } from "./api.js";
import { button, byId, make, tell } from "./dom.js";
import { follow as followModels, models, statusWords } from "./models.js";
import { showAt } from "./pictures.js";
import { bytes, duration } from "./words.js";

/** OWNER/NAME of a repository on Hugging Face. */
const REPOSITORY = /^[\w.-]+\/[\w.-]+$/;

/** For so many machines the plan says what room it would leave. */
const MOST_MACHINES = 5;

const form = /** @type {HTMLFormElement} */ (byId("model-form"));
const list = byId("catalogue");
const input = (id) => /** @type {HTMLInputElement} */ (byId(id));
const kind = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("new-kind")));
const filter = /** @type {HTMLSelectElement} */ (/** @type {unknown} */ (byId("catalogue-kind")));

/** Id of the entry that the form changes; null: it makes a new one. @type {string | null} */
let changing = null;
let isOpen = false;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
byId("new-cancel").addEventListener("click", () => edit(null));
models.addEventListener("change", draw);
byId("catalogue-search").addEventListener("input", draw);
filter.addEventListener("change", draw);

/** @param {boolean} open */
export function setOpen(open) {
  isOpen = open;
  if (open) draw();
}

function draw() {
  if (!isOpen) return;
  const wanted = input("catalogue-search").value.trim().toLowerCase();
  const found = models.all.filter((model) => (!filter.value || model.kind === filter.value)
    && `${model.id} ${model.name} ${model.description ?? ""} ${model.tags.join(" ")}`.toLowerCase().includes(wanted));
  tell(byId("catalogue-summary"), `${found.length} of ${models.all.length}`);
  const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.deed;
  list.replaceChildren(...found.map(cardOf));
  if (focused) /** @type {HTMLElement | null} */ (list.querySelector(`[data-deed="${CSS.escape(focused)}"]`))?.focus();
  byId("catalogue-empty").hidden = found.length > 0;
}

function cardOf(model) {
  const facts = [model.kind, model.base, model.variant, model.size_bytes && bytes(model.size_bytes)].filter(Boolean);
  const needs = model.auth_required ? `Needs a token of ${model.auth_provider || "its host"} on the machines.` : "";
  const words = [...new Set([...(model.trigger_words ?? []), ...(model.civitai.trained_words ?? [])])];
  return make("li", { class: "machine model", data: { state: model.availability } },
    pictureOf(model),
    make("h3", { text: model.id }),
    make("p", { class: "state" }, make("span", { class: "dot" }), make("span", { class: "detail", text: statusWords(model) })),
    make("p", { class: "hint", text: facts.join(" · ") }),
    publishedAs(model.civitai),
    model.description && make("p", { class: "about-model", text: model.description }),
    words.length ? make("p", { class: "hint", text: `Trigger words: ${words.join(", ")}` }) : null,
    needs && make("p", { class: "hint", text: needs }),
    make("p", { class: "hint origin", text: model.download_url, title: model.download_url }),
    make("div", { class: "actions" },
      deed("Plan", model, () => plan(model.id)),
      deed("Edit", model, () => edit(model), "quiet"),
      deed("Delete", model, () => remove(model), "quiet")));
}

/** What its publisher shows of it; a place is kept for it, so that nothing moves when it comes. */
function pictureOf(model) {
  if (!model.civitai.picture_url) return null;
  const picture = /** @type {HTMLImageElement} */ (make("img", { class: "model-picture", alt: `What ${model.id} draws`, width: "96", height: "96", loading: "lazy" }));
  showAt(picture, `/v1/models/${encodeURIComponent(model.id)}/picture`);
  return picture;
}

function publishedAs(civitai) {
  if (!civitai.name) return null;
  const link = make("a", { href: civitai.url, rel: "noopener noreferrer", target: "_blank", text: [civitai.name, civitai.version].filter(Boolean).join(", ") });
  return make("p", { class: "hint" }, "At Civitai: ", link);
}

function deed(text, model, what, look = "") {
  return button(text, what, { class: look, "aria-label": `${text}: ${model.id}`, data: { deed: `${text} ${model.id}` } });
}

/** Say what a machine would have to fetch, before any does, and what room it would leave on the disks of those that are here. */
async function plan(id) {
  try {
    const [found, machines] = await Promise.all([planFor(id), askAll("/v1/machines", "machines")]);
    const wrong = found.models.filter((each) => each.error).map((each) => `${each.model}: ${each.error.message}`);
    const others = found.models.filter((each) => !each.needed).map((each) => each.model);
    const parts = [
      found.would_work ? `A new machine would fetch ${bytes(found.bytes_to_fetch)}` : `A machine could not serve ${id}`,
      found.would_work && found.minutes_at_1_gbit > 0 && `in ${duration(60_000 * found.minutes_at_1_gbit)} at 1 Gbit/s`,
    ].filter(Boolean).join(" ");
    const more = [others.length && `It needs ${others.join(", ")} as well.`, ...wrong,
      found.would_work && `Start it with MACHINE_MODELS_NEEDED=${id}.`].filter(Boolean);
    news([`${parts}.`, ...more].join(" "));
    if (!found.would_work) return;
    const here = machines.filter((machine) => machine.alive).slice(0, MOST_MACHINES);
    const rooms = await Promise.all(here.map(async (machine) => roomWords(machine, await planFor(id, machine.machine_id))));
    byId("catalogue-news").append(make("ul", {}, ...rooms.map((text) => make("li", { text }))));
  } catch (problem) {
    news(problem.message, true);
  }
}

function planFor(id, machine_id = undefined) {
  return ask("/v1/machines/plan", { models_needed: id, machine_id });
}

function roomWords({ machine_id }, plan) {
  if (plan.bytes_to_fetch === 0) return `${machine_id} has all of it.`;
  const fetches = `${machine_id} would fetch ${bytes(plan.bytes_to_fetch)}`;
  const left = plan.disk_free_after;
  if (left === null) return `${fetches}; nobody knows how much room its disk has.`;
  return left < 0 ? `${fetches}, and its disk lacks ${bytes(-left)} for that.` : `${fetches}, and have ${bytes(left)} left on its disk.`;
}

function news(text, isBad = false) {
  const place = byId("catalogue-news");
  place.className = isBad ? "problem" : "notice calm";
  tell(place, text);
  place.scrollIntoView({ block: "nearest" });
}

/** Fill the form with an entry, or empty it. */
function edit(model) {
  changing = model?.id ?? null;
  form.reset();
  tell(byId("new-problem"), "");
  byId("model-form-title").textContent = model ? `Change ${model.id}` : "Add a model";
  byId("new-save").textContent = model ? "Change it" : "Add it";
  byId("new-cancel").hidden = !model;
  input("new-id").disabled = Boolean(model);
  if (!model) return;
  input("new-id").value = model.id;
  input("new-path").value = model.download_url;
  input("new-hash").value = model.hash ?? "";
  input("new-base").value = model.base ?? "";
  input("new-description").value = model.description ?? "";
  kind.value = model.kind;
  form.scrollIntoView({ block: "start", behavior: "smooth" });
  input("new-path").focus();
}

async function save() {
  tell(byId("new-problem"), "");
  const submit = /** @type {HTMLButtonElement} */ (byId("new-save"));
  submit.disabled = true; // the server looks whether the file is there, and that takes a while
  try {
    const said = spoken();
    const id = changing;
    const model = id ? await change("PATCH", `/v1/models/${encodeURIComponent(id)}`, said) : await ask("/v1/models", said);
    edit(null);
    await followModels();
    await plan(model.id);
  } catch (problem) {
    tell(byId("new-problem"), problem.message);
  } finally {
    submit.disabled = false;
  }
}

/** What the form says, in the API's words. */
function spoken() {
  const where = input("new-path").value.trim();
  const said = { kind: kind.value };
  for (const [id, name] of [["new-hash", "hash"], ["new-base", "base"], ["new-description", "description"]]) {
    const value = input(id).value.trim();
    if (value || changing) said[name] = value || null;
  }
  if (changing) {
    const before = models.all.find((model) => model.id === changing);
    return where === before?.download_url ? said : { ...said, path: where };
  }
  if (input("new-id").value.trim()) said.id = input("new-id").value.trim();
  if (REPOSITORY.test(where)) return { ...said, name: where, path: null };
  return { ...said, name: nameIn(where), path: where };
}

/** The file's name at the end of an address. */
function nameIn(where) {
  const last = where.split(/[?#]/)[0].split("/").filter(Boolean).pop() ?? "";
  try {
    return decodeURIComponent(last) || where;
  } catch {
    return last;
  }
}

async function remove(model) {
  if (!confirm(`Take ${model.id} out of the catalogue? Machines keep the files that they have.`)) return;
  try {
    await change("DELETE", `/v1/models/${encodeURIComponent(model.id)}`);
    if (changing === model.id) edit(null);
    await followModels();
    news(`${model.id} is no longer in the catalogue.`);
  } catch (problem) {
    news(problem.message, true);
  }
}
