/**
 * Watching jobs until they end. The stream tells when something happened and how far a job is; what is true is asked
 * for. Without a stream it is asked for all the time, and everything is seen as well, a little later.
 * @module
 */

import { ask, Refused } from "./api.js";
import { hurry, stream, want } from "./stream.js";
import { NoToken } from "./token.js";

const RUNNING_MS = 500;
/** With a stream only the place in the queue and the time left are asked for. */
const ESTIMATES_MS = 5000;
const QUEUED_MS = { first: 500, growth: 1.25, most: 5000 };
const AWAY_MS = { first: 1000, growth: 1.7, most: 10_000 };

export const ENDED = new Set(["completed", "error", "cancelled"]);

/** @type {Set<Watch>} */
const watches = new Set();

class Watch {
  constructor(jobId, listener) {
    this.jobId = jobId;
    this.listener = listener;
    /** The job as it was when it was asked for, and when that was. */
    this.job = null;
    this.heardAt = 0;
    this.wait = 0;
    this.away = false;
    this.timer = 0;
    this.asking = false;
    /** Something happened since it was asked for. */
    this.stale = false;
    this.over = false;
  }

  /** Look now; unless nobody would see it. */
  async look() {
    clearTimeout(this.timer);
    this.stale = this.asking;
    if (this.over || this.asking || document.hidden) return;
    this.asking = true;
    try {
      this.hear(await ask(`/v1/jobs/${encodeURIComponent(this.jobId)}`));
    } catch (problem) {
      this.stumble(problem);
    } finally {
      this.asking = false;
    }
    if (this.stale && !this.away) this.look();
    else if (!this.over && !document.hidden) this.timer = setTimeout(() => this.look(), this.wait);
  }

  hear(job) {
    if (this.over) return;
    const changed = job.status !== this.job?.status || this.away;
    this.job = job;
    this.heardAt = performance.now();
    this.away = false;
    if (job.status === "processing") this.wait = stream.live ? ESTIMATES_MS : RUNNING_MS;
    else this.wait = changed ? QUEUED_MS.first : Math.min(QUEUED_MS.most, this.wait * QUEUED_MS.growth);
    if (ENDED.has(job.status)) {
      this.stop();
      wakeAll(); // the next one in the queue has likely begun
    }
    this.listener.onJob(job);
  }

  /** Hear what the stream tells of this job. */
  note({ event, progress, image_count: images, ...moment }) {
    const { job } = this;
    if (event !== "progress" || job?.status !== "processing") {
      this.look();
      return;
    }
    const passed = (performance.now() - this.heardAt) / 1000;
    const eta = job.eta?.seconds ? { seconds: Math.max(1, job.eta.seconds - passed) } : job.eta;
    this.listener.onJob({ ...job, progress, eta, running: { ...moment, images } });
  }

  stumble(problem) {
    if (this.over) return;
    if (problem instanceof Refused && (problem.status === 404 || problem.status === 410)) {
      this.stop();
      this.listener.onGone();
      return;
    }
    const wait = this.away ? Math.min(AWAY_MS.most, this.wait * AWAY_MS.growth) : AWAY_MS.first;
    this.wait = wait * (0.9 + 0.2 * Math.random()); // many pages must not come back in the same moment
    this.away = true;
    this.listener.onTrouble(problem instanceof NoToken ? problem.message : "No connection. Trying again …");
  }

  stop() {
    this.over = true;
    clearTimeout(this.timer);
    watches.delete(this);
    want(watches.size > 0);
  }
}

/**
 * Watch a job until it has ended or `stop` is called. Losing the network only delays the news.
 * @param {string} jobId
 * @param {{onJob: (job: any) => void, onTrouble: (words: string) => void, onGone: () => void}} listener
 * @returns {{stop: () => void}}
 */
export function watch(jobId, listener) {
  const started = new Watch(jobId, listener);
  watches.add(started);
  want(true);
  started.look();
  return started;
}

/** Look at all watched jobs at once. */
export function wakeAll() {
  for (const each of [...watches]) each.look();
}

/** The server is there again, or the visitor: look at everything. */
export function comeBack() {
  hurry();
  wakeAll();
}

stream.addEventListener("change", wakeAll); // what happens while there is none is not told
stream.addEventListener("job", ({ detail }) => {
  for (const each of watches) if (each.jobId === detail.job_id) each.note(detail);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) wakeAll();
});
window.addEventListener("online", wakeAll);
