/**
 * States, sizes and problems in a person's words.
 * @module
 */

export const STATE = {
  sending: "Sending",
  queued: "Waiting",
  processing: "Drawing",
  completed: "Done",
  error: "Failed",
  cancelled: "Cancelled",
};

const PROBLEM = {
  away: "The server could not be reached",
  bases_differ: "These models do not go together",
  cannot_draw: "This model cannot draw it like this",
  companion_missing: "Something it needs beside its model could not be had",
  delivery_refused: "The picture could not be brought home",
  engine_not_found: "This engine does not exist",
  failed_on_two_machines: "It failed on two machines",
  gone: "The job is gone",
  internal_error: "Something went wrong on the machine",
  invalid_request: "The server did not take this order",
  invalid_spec: "It can never be drawn like this",
  machine_lost: "The machine was lost while drawing",
  missing_token: "A token is needed",
  model_not_found: "The model is no longer in the catalogue",
  model_not_proven: "The model's file was changed or is gone on the machine",
  not_enough_memory: "The machine has not enough memory for this",
  not_possible_here: "The machine cannot draw it like this",
  out_of_memory: "The machine has not enough memory for this",
  picture_gone: "A picture it begins with is gone",
  server_away: "The server that draws for the machine is away",
  server_failed: "The server that draws for the machine failed",
  server_gone: "The server that draws for the machine is away",
  too_many_jobs: "Too many jobs wait already",
  too_many_requests: "Too many requests at once",
  unserved: "No machine can draw this at the moment",
};

const PHASE = {
  provisioning: "fetching what goes along with the model",
  fetching: "fetching the pictures it begins with",
  loading: "loading the model",
  denoising: "drawing",
  upscaling: "enlarging",
  encoding: "writing the file",
  uploading: "bringing the picture home",
};

const UNITS = ["B", "KB", "MB", "GB", "TB"];

/** A headline for an error code. */
export function problemTitle(code) {
  return PROBLEM[code] ?? "It did not work";
}

/** What a running job does: "step 3 of 20, picture 2 of 4". */
export function progressWords(running) {
  if (!running) return "starting";
  const parts = [];
  if (running.phase === "denoising" && running.steps) parts.push(`step ${running.step} of ${running.steps}`);
  else parts.push(PHASE[running.phase] ?? running.phase);
  if (running.images > 1) parts.push(`picture ${Math.min(running.image + 1, running.images)} of ${running.images}`);
  return parts.join(", ");
}

/** How long a job will take yet: "about 12 s left"; empty where nobody knows. */
export function etaWords(job) {
  const seconds = job.eta?.seconds;
  return typeof seconds === "number" ? `about ${duration(1000 * Math.max(1, Math.round(seconds)))} left` : "";
}

/** Where a job stands in its queue: "next in line", "place 3 in line". */
export function placeWords(job) {
  const place = job.queue_position;
  const words = !place ? "" : place === 1 ? "next in line" : `place ${place} in line`;
  return [words, etaWords(job)].filter(Boolean).join(" · ");
}

/** @param {number} count @param {string} one @param {string} [many] */
export function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

/** Bytes with three digits: "1.23 GB". */
export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${UNITS[unit]}`;
}

/** Milliseconds as a person says them: "3.2 s", "2 min", "5 h". */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (Number.isInteger(seconds) && seconds < 100) return `${seconds} s`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

/** How long a job was drawn; empty where that is not known. */
export function drawnIn(job) {
  if (!job.started_at || !job.ended_at) return "";
  return duration(Date.parse(job.ended_at) - Date.parse(job.started_at));
}
