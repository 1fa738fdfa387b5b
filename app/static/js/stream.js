/**
 * News of all jobs by one stream of events, open while somebody wants them and somebody looks.
 * The server has seats for some streams only: without one, and while the network is away, whoever listens has to ask.
 * @module
 */

/** The server says something every 15 s; a line that is silent for longer is dead, whatever the browser believes. */
const SILENT_MS = 40_000;
/** Whoever got no seat asks for one again after so long, or twice that. */
const REFUSED_MS = 10_000;

const KINDS = ["began", "alive", "queued", "attempt_started", "attempt_ended", "ended", "progress"];

/** Tells "change" when news begin to come or stop coming (`live`), and "job" for each event of one. */
export const stream = Object.assign(new EventTarget(), { live: false });

/** @type {EventSource|null} */
let source = null;
let isWanted = false;
let timer = 0;

/** Open the stream, or close it when nobody wants it any more. @param {boolean} wanted */
export function want(wanted) {
  isWanted = wanted;
  if (wanted) open();
  else close();
}

/** Try at once, instead of in a while. */
export function hurry() {
  if (!source && isWanted) open();
}

function open() {
  if (source || document.hidden) return;
  clearTimeout(timer);
  source = new EventSource("/v1/events");
  for (const kind of KINDS) source.addEventListener(kind, hear);
  source.addEventListener("error", () => {
    turn(false);
    if (source.readyState === EventSource.CLOSED) openIn(REFUSED_MS * (1 + Math.random()));
  }); // everything else the browser mends by itself, after the time that the server says
}

function openIn(ms) {
  close();
  timer = setTimeout(hurry, ms);
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
  stream.live = false;
}

function hear({ type, data }) {
  clearTimeout(timer);
  timer = setTimeout(() => openIn(0), SILENT_MS);
  if (type === "began") turn(true);
  else if (type !== "alive") stream.dispatchEvent(new CustomEvent("job", { detail: JSON.parse(data) }));
}

function turn(isLive) {
  stream.live = isLive;
  stream.dispatchEvent(new Event("change"));
}

document.addEventListener("visibilitychange", () => (document.hidden ? close() : hurry()));
window.addEventListener("online", hurry);
