/**
 * The jobs that were sent from this browser: each gets a card, and is watched until it ends.
 * @module
 */

import { ask, Away, Refused, tellServer } from "./api.js";
import { Card } from "./card.js";
import { announce, byId } from "./dom.js";
import { noteSeed, takeSettings } from "./form.js";
import { orderAgain } from "./order.js";
import { JOBS, readJson, writeJson } from "./store.js";
import { problemTitle } from "./words.js";
import { ENDED, watch } from "./watch.js";

/** More cards of finished jobs are put away by themselves: their pictures are in the gallery. */
const MOST_DONE = 6;
const MOST_REMEMBERED = 50;

/** @type {Set<{card: Card, jobId: string|null, watch: {stop: () => void}|null, place: number}>} by `place`, newest last */
const entries = new Set();
/** Jobs of the last visit of which there are no news yet. @type {Set<string>} */
const awaited = new Set();
/** Those of the last visit count down from 0, new ones up. */
let newest = 0;
const list = byId("jobs");

/** @type {{onDone: (job: any) => void, onOpen: (imageId: string) => void}} */
let listener = { onDone: () => undefined, onOpen: () => undefined };

/**
 * Join the jobs to the page, and go on watching those of the last visit.
 * @returns {Promise<any>} settles when there are first news of all of these
 */
export function setUpJobs(given) {
  listener = given;
  byId("clear-jobs").addEventListener("click", () => {
    for (const entry of [...entries].filter((each) => each.card.ended)) remove(entry);
    byId("prompt").focus();
  });
  const remembered = readJson(JOBS, []).filter((each) => typeof each === "string");
  for (const jobId of remembered) awaited.add(jobId);
  return Promise.all(remembered.map((jobId, place) => restore(jobId, place - remembered.length)));
}

/**
 * Send an order; its card is there at once, whatever becomes of it.
 * @param {Record<string, any>} order
 */
export async function sendOrder(order) {
  const entry = add(order);
  entry.card.element.scrollIntoView({ block: "nearest", behavior: "smooth" }); // on a phone the form fills the window
  try {
    const job = await ask("/v1/jobs", order);
    entry.jobId = job.job_id;
    noteSeed(job.parameters.seed);
    hear(entry, job);
    if (entries.has(entry)) follow(entry);
    remember();
  } catch (problem) {
    const away = problem instanceof Away;
    const code = away ? "away" : problem.code ?? "missing_token";
    const reason = away ? "The order was not taken, as far as this page knows." : problem.message;
    entry.card.fail(code, reason);
    announce(`${problemTitle(code)}: ${reason}`);
  }
  showCounts();
}

/** Show a job that was ordered elsewhere on the page, and watch it. */
export function adopt(job) {
  const entry = Object.assign(add(job.parameters), { jobId: job.job_id });
  hear(entry, job);
  if (entries.has(entry)) follow(entry);
  remember();
}

function add(order) {
  const entry = { card: null, jobId: null, watch: null, place: newest++ };
  entry.card = new Card(order, {
    cancel: () => cancel(entry),
    again: () => {
      remove(entry);
      sendOrder(orderAgain(entry.card.order));
    },
    edit: () => takeSettings(entry.card.order),
    dismiss: () => remove(entry),
    open: (imageId) => listener.onOpen(imageId),
  });
  entries.add(entry);
  list.prepend(entry.card.element);
  showCounts();
  return entry;
}

/** Bring back the card of an earlier visit; a job that nobody knows any more is forgotten. */
function restore(jobId, place) {
  return new Promise((settle) => {
    let entry = null;
    const restored = watch(jobId, {
      onJob: (job) => {
        awaited.delete(jobId);
        if (!entry) {
          entry = Object.assign(add(job.parameters), { jobId, watch: restored, place });
          putInPlace(entry);
        }
        hear(entry, job);
        settle(null);
      },
      onTrouble: (words) => {
        entry?.card.stumble(words);
        settle(null);
      },
      onGone: () => {
        awaited.delete(jobId);
        if (entry) remove(entry);
        else forget(jobId);
        settle(null);
      },
    });
  });
}

/** News of the last visit's jobs come in any order; their cards stand as they did. */
function putInPlace(entry) {
  const sorted = [...entries].sort((one, other) => one.place - other.place);
  entries.clear();
  for (const each of sorted) entries.add(each);
  const older = sorted[sorted.indexOf(entry) - 1];
  list.insertBefore(entry.card.element, older ? older.card.element : null);
}

function follow(entry) {
  entry.watch = watch(entry.jobId, {
    onJob: (job) => hear(entry, job),
    onTrouble: (words) => entry.card.stumble(words),
    onGone: () => entry.card.fail("gone", "The server does not know it any more."),
  });
}

function hear(entry, job) {
  if (!entry.card.update(job)) return;
  if (ENDED.has(job.status)) {
    if (job.status === "completed") listener.onDone(job);
    putOldAway();
    remember();
  }
  announce(newsOf(job));
  showCounts();
}

function newsOf(job) {
  const about = `“${job.parameters.prompt.slice(0, 80)}”`;
  if (job.status === "queued") return `Waiting: ${about}`;
  if (job.status === "processing") return `Drawing ${about}`;
  if (job.status === "completed") return `Done: ${about}`;
  if (job.status === "error") return `Failed: ${about}. ${problemTitle(job.error?.code)}. ${job.error?.message ?? ""}`;
  return `Cancelled: ${about}`;
}

async function cancel(entry) {
  entry.card.cancelling();
  try {
    hear(entry, await tellServer(`/v1/jobs/${encodeURIComponent(entry.jobId)}/cancel`));
    entry.watch?.stop();
  } catch (problem) {
    if (!(problem instanceof Refused && problem.status === 409)) entry.card.stumble("It could not be cancelled. Try again.");
    entry.card.state = ""; // the next news draw the buttons anew; after a 409 they tell how it ended
  }
}

function remove(entry) {
  entry.watch?.stop();
  entries.delete(entry);
  entry.card.element.remove();
  remember();
  showCounts();
}

function putOldAway() {
  const done = [...entries].filter((entry) => entry.card.state === "completed");
  for (const entry of done.slice(0, Math.max(0, done.length - MOST_DONE))) remove(entry);
}

/** Remember what has not ended, and what failed and was not put away. */
function remember() {
  const kept = [...entries].filter((entry) => entry.jobId && !["completed", "cancelled"].includes(entry.card.state));
  writeJson(JOBS, [...awaited, ...kept.map((entry) => entry.jobId)].slice(-MOST_REMEMBERED));
}

function forget(jobId) {
  writeJson(JOBS, readJson(JOBS, []).filter((each) => each !== jobId));
}

function showCounts() {
  const all = [...entries];
  const active = all.filter((entry) => !entry.card.ended).length;
  byId("jobs-section").hidden = all.length === 0;
  byId("clear-jobs").hidden = active === all.length;
  document.title = active ? `(${active}) Imagefleet` : "Imagefleet";
}
