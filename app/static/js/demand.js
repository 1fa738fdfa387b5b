/**
 * Per model: what waits, for how long, and how many machines are in each state.
 * @module
 */

import { byId, make, tell } from "./dom.js";
import { counted, duration } from "./words.js";

const STATES = [
  ["machines_ready", "ready"],
  ["machines_downloading", "downloading"],
  ["machines_verifying", "checking its hash"],
  ["machines_wanted", "going to fetch it"],
  ["machines_failed", "without it: failed"],
  ["machines_drained", "drained"],
  ["machines_sick", "sick"],
  ["machines_silent", "silent"],
];

let drawn = "";

/** Show what the server says of each model. @param {any} capacity */
export function showDemand(capacity) {
  const shown = capacity.models.filter((model) => model.jobs_waiting || model.jobs_running || STATES.some(([name]) => model[name]));
  const signature = JSON.stringify(shown);
  if (signature === drawn) return;
  drawn = signature;
  byId("demand-rows").replaceChildren(...shown.map(rowOf));
  byId("demand").hidden = shown.length === 0;
  byId("demand-none").hidden = shown.length > 0;
  tell(byId("demand-summary"), `${counted(capacity.jobs_waiting, "job")} waiting, ${capacity.jobs_running} being drawn`);
}

function rowOf(model) {
  const machines = STATES.filter(([name]) => model[name]).map(([name, words]) => `${model[name]} ${words}`);
  const next = model.next_ready_in_seconds;
  if (next !== null) machines.push(`the next in ${duration(1000 * Math.round(next))}`);
  return make("tr", { role: "row", data: { model: model.model_id } },
    make("th", { scope: "row", role: "rowheader", text: model.model_id }),
    cell("In the queue", counted(model.jobs_waiting, "job")),
    cell("Waiting time", waitingOf(model)),
    cell("Being drawn", String(model.jobs_running)),
    cell("Machines", machines.join(", ") || "none"));
}

/** The stylesheet shows its column's name before it where there is no room for columns. */
function cell(column, text) {
  return make("td", { role: "cell", text, data: { column } });
}

function waitingOf(model) {
  if (!model.jobs_waiting) return "none";
  const parts = [`the oldest for ${duration(1000 * Math.round(model.oldest_waiting_seconds ?? 0))}`];
  if (model.clear_seconds !== null) parts.push(`all drawn in about ${duration(1000 * Math.max(1, Math.round(model.clear_seconds)))}`);
  else if (!model.machines_ready && !model.machines_coming) parts.push("no machine for it is in sight");
  return parts.join(", ");
}
