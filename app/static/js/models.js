/**
 * The catalogue: what can be drawn with, and how far the fleet is with each model.
 * @module
 */

import { ask, connection } from "./api.js";
import { counted } from "./words.js";

const CALM_MS = 15_000;
const EAGER_MS = 3000;

/** Tells "change" when the catalogue or the state of a model is another. */
export const models = Object.assign(new EventTarget(), {
  /** @type {any[]} */ list: [],
  /** @type {any[]} */ machines: [],
  known: false,
  /** Why nothing is known yet. */
  problem: "",
});

let timer = 0;
let before = "";

/** @returns {any | undefined} */
export function modelOf(id) {
  return models.list.find((model) => model.id === id);
}

/** Ask for the catalogue now, and again and again while somebody looks. Throws nothing. */
export async function follow() {
  clearTimeout(timer);
  if (!document.hidden) await refresh().catch(stumble);
  const waiting = !connection.up || !models.known || models.list.some((model) => model.status === "downloading");
  clearTimeout(timer); // somebody else may have called meanwhile: one round is enough
  timer = setTimeout(follow, waiting ? EAGER_MS : CALM_MS);
}

/** The next round may do better; until then the page says why it is empty. */
function stumble(problem) {
  models.problem = problem.message;
  if (!models.known) models.dispatchEvent(new Event("change"));
}

async function refresh() {
  const { models: all } = await ask("/v1/models");
  const list = all.filter((model) => model.kind === "checkpoint");
  // Only machines know how far a download is, and why one failed.
  const unsettled = list.some((model) => model.status === "downloading" || model.status === "error");
  const machines = unsettled ? (await ask("/v1/machines")).machines : [];
  const now = JSON.stringify([list, machines.map((machine) => [machine.alive, machine.models])]);
  Object.assign(models, { known: true, problem: "" });
  if (now === before) return;
  before = now;
  Object.assign(models, { list, machines });
  models.dispatchEvent(new Event("change"));
}

/** Say in one sentence whether a model can be drawn with. */
export function statusWords(model) {
  if (model.status === "ready") return `Ready on ${counted(model.machines_ready.length, "machine")}${queueWords(model)}`;
  const held = models.machines.filter((machine) => machine.alive).flatMap((machine) => machine.models);
  const mine = held.filter((each) => each.model_id === model.id);
  if (model.status === "downloading") {
    const done = Math.max(-1, ...mine.filter((each) => each.bytes_total).map((each) => each.bytes_done / each.bytes_total));
    const far = done >= 0 ? `, ${Math.floor(100 * done)} % done` : "";
    return `Downloading${far}. Jobs wait until it is there.`;
  }
  if (model.status === "error") {
    const reason = mine.find((each) => each.error)?.error.message;
    return `Error, no machine could get it${reason ? `: ${reason}` : ""}`;
  }
  return `Absent: no live machine holds it${queueWords(model) || ". Jobs will wait for one."}`;
}

function queueWords(model) {
  return model.jobs_waiting ? `, ${counted(model.jobs_waiting, "job")} waiting` : "";
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) follow();
});
