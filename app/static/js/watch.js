/**
 * Watching a job until it ends. Nobody else knows how news come: today by asking, one day by a stream of events.
 * @module
 */

import { ask, Refused } from "./api.js";
import { NoToken } from "./token.js";

const RUNNING_MS = 500;
const QUEUED_MS = { first: 500, growth: 1.25, most: 5000 };
const AWAY_MS = { first: 1000, growth: 1.7, most: 10_000 };

export const ENDED = new Set(["completed", "error", "cancelled"]);

/** @type {Set<Watch>} */
const watches = new Set();

class Watch {
  constructor(jobId, listener) {
    this.jobId = jobId;
    this.listener = listener;
    this.state = "";
    this.wait = 0;
    this.away = false;
    this.timer = 0;
    this.asking = false;
    this.over = false;
  }

  /** Look now; unless nobody would see it. */
  async look() {
    clearTimeout(this.timer);
    if (this.over || this.asking || document.hidden) return;
    this.asking = true;
    try {
      this.hear(await ask(`/v1/jobs/${encodeURIComponent(this.jobId)}`));
    } catch (problem) {
      this.stumble(problem);
    } finally {
      this.asking = false;
    }
    if (!this.over && !document.hidden) this.timer = setTimeout(() => this.look(), this.wait);
  }

  hear(job) {
    if (this.over) return;
    const changed = job.status !== this.state || this.away;
    this.state = job.status;
    this.away = false;
    if (job.status === "processing") this.wait = RUNNING_MS;
    else this.wait = changed ? QUEUED_MS.first : Math.min(QUEUED_MS.most, this.wait * QUEUED_MS.growth);
    if (ENDED.has(job.status)) {
      this.stop();
      wakeAll(); // the next one in the queue has likely begun
    }
    this.listener.onJob(job);
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
  started.look();
  return started;
}

/** Look at all watched jobs at once. */
export function wakeAll() {
  for (const each of [...watches]) each.look();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) wakeAll();
});
window.addEventListener("online", wakeAll);
