/**
 * How a machine came up: a bar for each phase from its start to its first picture.
 * @module
 */

import { make } from "./dom.js";
import { duration } from "./words.js";

const PHASE = {
  booting: "Starting the process",
  connecting: "Connecting to the broker",
  looking_up: "Looking the models up",
  planning: "Planning the downloads",
  downloading: "Downloading",
  verifying: "Checking the hash",
  joining: "Joining the queue",
  waiting: "Waiting for a first job",
  starting: "Taking the first job",
  provisioning: "Bringing what goes along with it",
  fetching: "Fetching its pictures",
  loading: "Loading into memory",
  denoising: "Drawing",
  encoding: "Writing the file",
  uploading: "Bringing the picture home",
};

/** A machine that waited for hours would make hairs of all other bars: of its waiting so much of the rest is shown. */
const MOST_WAITING = 0.25;

/** Which machines' bars are open: they are drawn anew with each news. @type {Set<string>} */
const open = new Set();

/** @param {string} machineId @param {any} boot @returns {HTMLElement|null} */
export function waterfallOf(machineId, boot) {
  if (!boot?.phases.length) return null;
  const now = (Date.now() - Date.parse(boot.started_at)) / 1000;
  const bars = boot.phases.map((phase) => ({ ...phase, end: phase.start + (phase.seconds ?? Math.max(0, now - phase.start)) }));
  const first = boot.first_picture_seconds;
  const total = first ?? Math.max(...bars.map((bar) => bar.end));
  const waiting = bars.find((bar) => bar.phase === "waiting") ?? { start: total, seconds: 0 };
  const cut = Math.max(0, waiting.seconds - MOST_WAITING * (total - waiting.seconds));
  const place = (second) => {
    const waited = Math.min(Math.max(0, second - waiting.start), waiting.seconds);
    return (Math.min(second, total) - (waited && (cut * waited) / waiting.seconds)) / (total - cut || 1);
  };
  const summary = first === null ? "From its start: no picture yet" : `First picture ${duration(first * 1000)} after its start`;
  const details = make("details", { class: "waterfall", open: open.has(machineId), on: { toggle: () => {
    if (details.open) open.add(machineId);
    else open.delete(machineId);
  } } },
  make("summary", { text: summary, data: { keep: "waterfall" } }),
  make("ol", {}, ...bars.map((bar) => rowOf(bar, place(bar.start), place(bar.end), first, bar === waiting && cut > 0))));
  return details;
}

function rowOf(bar, from, to, first, isCut) {
  const strip = make("span", { class: "strip", "aria-hidden": "true" }, make("span", { data: { phase: bar.phase, cut: isCut ? "yes" : "no" } }));
  const fill = /** @type {HTMLElement} */ (strip.firstElementChild);
  fill.style.marginInlineStart = `${100 * from}%`; // by script: the page's policy allows no style in its markup
  fill.style.inlineSize = `${100 * Math.max(0, to - from)}%`;
  const words = [PHASE[bar.phase] ?? bar.phase, bar.model_id].filter(Boolean).join(": ");
  const unended = first === null ? "goes on" : "went on then";
  const time = bar.seconds === null ? unended : bar.seconds < 10 ? `${bar.seconds.toFixed(1)} s` : duration(bar.seconds * 1000);
  const span = `from ${bar.start.toFixed(1)} s to ${bar.end.toFixed(1)} s after its start`;
  return make("li", { title: isCut ? `${span}; its bar is shorter than that` : span },
    make("span", { class: "phase", text: words }), make("span", { class: "seconds", text: time }), strip);
}
