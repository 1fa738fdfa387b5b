/**
 * The catalogue: what can be drawn with, and how far the fleet is with each model.
 * @module
 */

import { askAll, connection } from "./api.js";
import { counted, duration } from "./words.js";

const CALM_MS = 15_000;
const EAGER_MS = 3000;

/** Stands before an engine's id where a model's id could be. */
const ENGINE = "engine:";

/** Tells "change" when the catalogue, an engine, or the state of one is another. */
export const models = Object.assign(new EventTarget(), {
  /** What can be drawn with: checkpoints, then engines. @type {any[]} */ list: [],
  /** The whole catalogue. @type {any[]} */ all: [],
  /** @type {any[]} */ machines: [],
  known: false,
  /** Why nothing is known yet. */
  problem: "",
});

let timer = 0;
let before = "";

/** Find what can be drawn with: a checkpoint by its id, an engine by its choice. @returns {any | undefined} */
export function modelOf(choice) {
  return models.list.find((model) => model.id === choice);
}

/** Name what an order is drawn by. @returns {string} */
export function choiceOf(order) {
  return order.engine_id ? `${ENGINE}${order.engine_id}` : order.model_id;
}

/** The part of an order that names what draws it. @param {string} choice */
export function drawerIn(choice) {
  return choice.startsWith(ENGINE) ? { engine_id: choice.slice(ENGINE.length) } : { model_id: choice };
}

/** Ask for the catalogue now, and again and again while somebody looks. Throws nothing. */
export async function follow() {
  clearTimeout(timer);
  if (!document.hidden) await refresh().catch(stumble);
  const waiting = !connection.up || !models.known || models.list.some((model) => model.availability === "downloading");
  clearTimeout(timer); // somebody else may have called meanwhile: one round is enough
  timer = setTimeout(follow, waiting ? EAGER_MS : CALM_MS);
}

/** The next round may do better; until then the page says why it is empty. */
function stumble(problem) {
  models.problem = problem.message;
  if (!models.known) models.dispatchEvent(new Event("change"));
}

async function refresh() {
  const [all, engines] = await Promise.all([askAll("/v1/models", "models"), askAll("/v1/engines", "engines")]);
  const checkpoints = all.filter((model) => model.kind === "checkpoint");
  const list = [...checkpoints, ...engines.map((engine) => asDrawer(engine, checkpoints))];
  // Only machines know how far a download is, and why one failed.
  const unsettled = list.some((model) => model.availability === "downloading" || model.availability === "error");
  const machines = unsettled ? await askAll("/v1/machines", "machines") : [];
  const now = JSON.stringify([all, engines, machines.map((machine) => [machine.alive, machine.models])]);
  Object.assign(models, { known: true, problem: "" });
  if (now === before) return;
  before = now;
  Object.assign(models, { list, all, machines });
  models.dispatchEvent(new Event("change"));
}

const ENGINE_STATUS = { Ready: "ready", Working: "ready", Starting: "downloading" };

/** Make an engine look like a catalogue entry: its checkpoint's, with its own defaults. */
function asDrawer(engine, checkpoints) {
  const checkpoint = checkpoints.find((model) => model.id === engine.checkpoint);
  const own = {
    width: engine.default_width, height: engine.default_height,
    guidance_scale: engine.default_cfg, scheduler: engine.default_scheduler,
  };
  const options = { ...checkpoint?.options };
  for (const [name, value] of Object.entries(own)) if (value !== null) options[name] = withDefault(options[name], value);
  if (engine.default_steps !== null) options.steps = withDefault(options.steps, engine.default_steps);
  const parts = [engine.checkpoint, ...engine.loras].join(" + ");
  return {
    ...checkpoint, engine, options,
    id: choiceOf(engine), name: `Engine: ${parts}`, availability: ENGINE_STATUS[engine.status] ?? "closed", jobs_waiting: 0,
  };
}

function withDefault(option, value) {
  return typeof option === "object" && option !== null ? { ...option, default: value } : value;
}

/** Say in one sentence whether a model can be drawn with. */
export function statusWords(model) {
  if (model.engine) return engineWords(model.engine);
  if (model.availability === "ready") return `Ready on ${counted(model.machines_ready.length, "machine")}${queueWords(model)}`;
  const held = models.machines.filter((machine) => machine.alive).flatMap((machine) => machine.models);
  const mine = held.filter((each) => each.model_id === model.id);
  if (model.availability === "downloading") {
    const done = Math.max(-1, ...mine.filter((each) => each.bytes_total).map((each) => each.bytes_done / each.bytes_total));
    const far = done >= 0 ? `, ${Math.floor(100 * done)} % done` : "";
    const times = mine.filter((each) => each.bytes_total && each.bytes_per_second)
      .map((each) => (1000 * (each.bytes_total - each.bytes_done)) / each.bytes_per_second);
    const soon = times.length ? `, about ${duration(Math.min(...times))} left` : "";
    return `Downloading${far}${soon}. Jobs wait until it is there.`;
  }
  if (model.availability === "error") {
    const reason = mine.find((each) => each.error)?.error.message;
    return `Error, no machine could get it${reason ? `: ${reason}` : ""}`;
  }
  if (model.kind !== "checkpoint") return "Absent: on no live machine. One fetches it when a job needs it.";
  return `Absent: no live machine holds it${queueWords(model) || ". Jobs will wait for one."}`;
}

function engineWords(engine) {
  if (engine.status === "Starting") return `Starting on ${engine.machine_id}. Jobs wait until it is ready.`;
  if (engine.status !== "Closed") return `${engine.status} in the memory of ${engine.machine_id}`;
  return `Closed${engine.error ? `: ${engine.error.message}` : ". Start it first: see Engines."}`;
}

function queueWords(model) {
  return model.jobs_waiting ? `, ${counted(model.jobs_waiting, "job")} waiting` : "";
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) follow();
});
