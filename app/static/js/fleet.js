/**
 * The fleet: every machine with its device, its memory, and how far it is with each model.
 * @module
 */

import { ask, askAll, change, tellServer } from "./api.js";
import { showDemand } from "./demand.js";
import { button, byId, make, tell } from "./dom.js";
import { waterfallOf } from "./waterfall.js";
import { bytes, duration } from "./words.js";

const EVERY_MS = 2000;

const STATE = {
  wanted: "is next",
  downloading: "downloading",
  verifying: "checking its hash",
  ready: "ready",
  error: "error",
};

/** @type {Map<string, {element: HTMLElement, signature: string, seen: HTMLElement}>} */
const cards = new Map();
const list = byId("machines");
let timer = 0;
let looking = false;

/** Look while the view is open; stop when it is not. @param {boolean} open */
export function setOpen(open) {
  looking = open;
  clearTimeout(timer);
  if (open) look();
}

async function look() {
  clearTimeout(timer);
  if (!looking || document.hidden) return;
  try {
    const [machines, capacity] = await Promise.all([askAll("/v1/machines", "machines"), ask("/v1/capacity")]);
    draw(machines);
    showDemand(capacity);
  } catch (problem) {
    tell(byId("fleet-summary"), problem.message);
  }
  clearTimeout(timer); // somebody else may have called meanwhile: one round is enough
  if (looking) timer = setTimeout(look, EVERY_MS);
}

document.addEventListener("visibilitychange", look);

function draw(machines) {
  const sorted = [...machines].sort((a, b) => Number(b.alive) - Number(a.alive) || a.machine_id.localeCompare(b.machine_id));
  const ids = new Set(sorted.map((machine) => machine.machine_id));
  for (const [id, card] of cards) {
    if (ids.has(id)) continue;
    card.element.remove();
    cards.delete(id);
  }
  sorted.forEach((machine, place) => {
    const card = cardOf(machine);
    if (list.children[place] !== card.element) list.insertBefore(card.element, list.children[place] ?? null);
    card.seen.textContent = seenWords(machine);
  });
  byId("fleet-empty").hidden = sorted.length > 0;
  const alive = sorted.filter((machine) => machine.alive && !machine.left).length;
  tell(byId("fleet-summary"), sorted.length ? `${alive} of ${sorted.length} alive` : "");
}

/** Only what changed is drawn anew: selected text stays selected. */
function cardOf(machine) {
  const { last_seen_at: _moment, ...rest } = machine;
  const signature = JSON.stringify(rest);
  const card = cards.get(machine.machine_id)
    ?? { element: make("li", { class: "machine" }), signature: "", seen: make("span", { class: "detail" }) };
  cards.set(machine.machine_id, card);
  if (card.signature !== signature) {
    card.signature = signature;
    card.element.dataset.state = stateOf(machine);
    const held = card.element.contains(document.activeElement) && document.activeElement.dataset.keep;
    card.element.replaceChildren(...partsOf(machine, card.seen));
    if (held) card.element.querySelector(`[data-keep="${held}"]`)?.focus(); // or nobody could press anything by key
  }
  return card;
}

function stateOf(machine) {
  if (!machine.alive || machine.left) return "silent";
  return machine.drained || machine.sick ? "drained" : "ready";
}

function seenWords(machine) {
  if (machine.left) return `left ${duration(Date.now() - Date.parse(machine.last_seen_at))} ago: it was stopped`;
  if (machine.alive && machine.drained) return "alive, drained: it takes no new jobs";
  if (machine.alive) return machine.sick ? `alive, sick: ${machine.sick}` : "alive";
  return `silent for ${duration(Date.now() - Date.parse(machine.last_seen_at))}`;
}

function partsOf(machine, seen) {
  const device = machine.device ?? {};
  return [
    make("h3", { text: machine.machine_id }),
    make("p", { class: "state" }, make("span", { class: "dot" }), seen),
    make("p", { class: "device", text: device.name || "device not known yet" }),
    memoryOf(device),
    ...machine.jobs.map(jobOf),
    machine.models.length
      ? make("ul", { class: "holdings" }, ...machine.models.map((model) => holdingOf(model, device.loaded ?? [])))
      : machine.left ? null : make("p", { class: "hint", text: "It was told to hold no model (MACHINE_MODELS_NEEDED)." }),
    device.away ? make("p", { class: "reason", text: device.away }) : null,
    waterfallOf(machine.machine_id, machine.boot),
    make("div", { class: "actions" }, deedOf(machine), ...(machine.alive ? [] : [forgetOf(machine)])),
    machine.version && make("p", { class: "hint version", text: `Imagefleet ${machine.version}` }),
  ].filter(Boolean);
}

/** Take a machine out of service, or back into it. */
function deedOf(machine) {
  const out = machine.drained || machine.sick;
  const path = `/v1/machines/${encodeURIComponent(machine.machine_id)}`;
  const title = out ? "Give it jobs again" : "Let it finish what it draws, and give it no more jobs";
  return button(out ? "Put back to work" : "Drain", () => tried(tellServer(path + (out ? "/undrain" : "/drain"))),
    { title, "data-keep": "deed", "aria-label": `${out ? "Put back to work" : "Drain"}: ${machine.machine_id}` });
}

/** Take a machine off the list that is gone for good; it comes back by itself should it check in again. */
function forgetOf(machine) {
  const path = `/v1/machines/${encodeURIComponent(machine.machine_id)}`;
  return button("Forget", () => tried(change("DELETE", path)),
    { title: "Take it off this list; its jobs stay", "data-keep": "forget", "aria-label": `Forget: ${machine.machine_id}` });
}

/** Wait for what the server was told, and look how things are then. @param {Promise<any>} telling */
async function tried(telling) {
  try {
    await telling;
  } catch (problem) {
    tell(byId("fleet-summary"), problem.message);
  }
  look();
}

/** What it draws now. */
function jobOf(job) {
  const percent = `${Math.floor(100 * job.progress)} %`;
  return make("div", { class: "memory running" },
    make("span", { text: `Draws job ${job.job_id.slice(0, 8)} with ${job.model_id} · ${percent}`, title: job.job_id }),
    make("progress", { max: "1", value: String(job.progress), "aria-label": `Job ${job.job_id}: progress` }));
}

function memoryOf(device) {
  if (!device.memory_total) return null;
  const used = Math.max(0, device.memory_total - (device.memory_free ?? device.memory_total));
  return make("div", { class: "memory" },
    make("progress", { max: String(device.memory_total), value: String(used), "aria-label": "Memory in use" }),
    make("span", { text: `${bytes(used)} of ${bytes(device.memory_total)} in use` }));
}

function holdingOf(model, loaded) {
  const words = STATE[model.state] ?? model.state;
  const row = make("li", { class: "holding", data: { state: model.state } },
    make("p", {},
      make("span", { class: "dot" }),
      make("strong", { text: model.model_id }),
      make("span", { class: "detail", text: loaded.includes(model.model_id) ? `${words}, in memory` : words })));
  if (model.state === "downloading" || model.state === "verifying") row.append(...transferOf(model));
  if (model.error) row.append(make("p", { class: "reason", text: model.error.message }));
  return row;
}

function transferOf(model) {
  const total = model.bytes_total;
  const bar = make("progress", { max: "1", value: total ? String(model.bytes_done / total) : null, "aria-label": `${model.model_id}: progress` });
  const facts = [total ? `${Math.floor((100 * model.bytes_done) / total)} %` : null, amount(model)];
  if (model.state === "downloading" && model.bytes_per_second) {
    facts.push(`${bytes(model.bytes_per_second)}/s`);
    if (total) facts.push(`${duration((1000 * (total - model.bytes_done)) / model.bytes_per_second)} left`);
  }
  return [bar, make("p", { class: "hint", text: facts.filter(Boolean).join(" · ") })];
}

function amount(model) {
  return model.bytes_total ? `${bytes(model.bytes_done)} of ${bytes(model.bytes_total)}` : bytes(model.bytes_done);
}

