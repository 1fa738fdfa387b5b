/**
 * One job on the page: its state, its progress, its pictures, and what can be done with it.
 * @module
 */

import { askForBlob } from "./api.js";
import { button, make, tell } from "./dom.js";
import { show } from "./pictures.js";
import { ENDED } from "./watch.js";
import { counted, drawnIn, etaWords, placeWords, problemTitle, progressWords, STATE } from "./words.js";

/** So many pictures fit into the corner of a card. */
const MOST_SHOWN = 4;

/**
 * @typedef {object} Deeds What a card's buttons do.
 * @property {() => void} cancel
 * @property {() => void} again
 * @property {() => void} edit
 * @property {() => void} dismiss
 * @property {(imageId: string) => void} open
 */

export class Card {
  /**
   * @param {Record<string, any>} order
   * @param {Deeds} deeds
   */
  constructor(order, deeds) {
    this.deeds = deeds;
    this.order = order;
    this.state = "";
    /** Which picture and step the preview shows. */
    this.previewed = "";
    this.media = make("div", { class: "media" });
    this.prompt = make("p", { class: "card-prompt", text: order.prompt, title: order.prompt, dir: "auto" });
    this.name = make("strong");
    this.detail = make("span", { class: "detail" });
    this.bar = make("progress", { max: "1", "aria-label": "Progress" });
    this.reason = make("p", { class: "reason", hidden: true });
    this.trouble = make("p", { class: "trouble", hidden: true });
    this.actions = make("div", { class: "actions" });
    this.element = make("li", { class: "card" },
      this.media,
      make("div", { class: "about" },
        this.prompt,
        make("p", { class: "state" }, make("span", { class: "dot" }), this.name, this.detail),
        this.bar, this.reason, this.trouble, this.actions));
    this.drawPlaces();
    this.showState("sending", "");
  }

  /** Show what the server says about the job. @returns {boolean} whether its state is another one */
  update(job) {
    const changed = job.status !== this.state;
    tell(this.trouble, "");
    this.order = { ...this.order, ...job.parameters, engine_id: job.engine_id ?? undefined };
    if (job.status === "queued") this.showState("queued", placeWords(job), job.waiting_for);
    else if (job.status === "processing") this.showState("processing", [progressWords(job.running), etaWords(job)].filter(Boolean).join(" · "));
    else if (job.status === "completed") this.showState("completed", drawnIn(job) && `in ${drawnIn(job)}`);
    else if (job.status === "error") this.fail(job.error?.code, job.error?.message);
    else this.showState(job.status, "");
    this.bar.value = job.progress;
    if (job.status === "completed" && changed) this.drawPictures(job);
    if (job.status === "processing") this.drawPreview(job);
    return changed;
  }

  /** Show why there will be no pictures. */
  fail(code, message) {
    this.showState("error", problemTitle(code), message);
  }

  /** Say that news do not come at the moment. */
  stumble(words) {
    tell(this.trouble, words);
  }

  /** Show that cancelling is under way: the button answers at once. */
  cancelling() {
    tell(this.detail, "cancelling …");
    for (const each of this.actions.querySelectorAll("button")) each.disabled = true;
  }

  get ended() {
    return ENDED.has(this.state);
  }

  showState(state, detail, reason = "") {
    this.name.textContent = STATE[state] ?? state;
    tell(this.detail, detail);
    tell(this.reason, reason);
    this.reason.title = this.reason.textContent; // a waiting job has two lines for it
    if (state === this.state) return;
    this.state = state;
    this.element.dataset.state = state;
    this.actions.replaceChildren(...this.buttons(state));
  }

  buttons(state) {
    const { cancel, again, edit, dismiss } = this.deeds;
    const away = button("✕", dismiss, { class: "quiet icon dismiss", "aria-label": "Put this job away", title: "Put away" });
    if (state === "queued" || state === "processing") return [button("Cancel", cancel, { class: "cancel" })];
    if (state === "completed") return [button("Use settings", edit, { class: "quiet" }), away];
    if (state === "error" || state === "cancelled") {
      return [button("Try again", again, { class: "again" }), button("Use settings", edit, { class: "quiet" }), away];
    }
    return [];
  }

  /** Keep the place for the pictures from the beginning, so that nothing moves when they come. */
  drawPlaces() {
    const count = Math.min(this.order.n ?? 1, MOST_SHOWN);
    this.media.dataset.count = String(count);
    this.media.replaceChildren(...Array.from({ length: count }, () => make("span", { class: "place" })));
  }

  /** Show how far the picture is that is being drawn, in its place. */
  async drawPreview(job) {
    const moment = job.running && `${job.running.image} ${job.running.step}`;
    if (!job.preview_url || !moment || moment === this.previewed) return;
    this.previewed = moment;
    const place = this.media.children[Math.min(job.running.image, MOST_SHOWN - 1)];
    try {
      const picture = await createImageBitmap(await askForBlob(`/v1/jobs/${encodeURIComponent(job.job_id)}/preview`));
      if (this.state !== "processing" || !place?.classList.contains("place")) return; // the true ones are there by now
      const canvas = /** @type {HTMLCanvasElement} */ (place.firstElementChild ?? make("canvas", { class: "preview", role: "img", "aria-label": "Preview" }));
      canvas.width = picture.width;
      canvas.height = picture.height;
      canvas.getContext("2d").drawImage(picture, 0, 0);
      if (!canvas.isConnected) place.append(canvas);
    } catch {
      // There will be another one, or the picture itself.
    }
  }

  drawPictures(job) {
    const shown = job.images.slice(0, MOST_SHOWN);
    this.media.dataset.count = String(shown.length);
    this.media.replaceChildren(...shown.map((image, position) => {
      const picture = /** @type {HTMLImageElement} */ (make("img"));
      show(picture, image, { alt: job.parameters.prompt, now: true });
      const rest = job.images.length - MOST_SHOWN;
      const more = rest > 0 && position === MOST_SHOWN - 1 ? make("span", { class: "rest", text: `+${rest}` }) : null;
      const label = `Open picture ${position + 1} of ${counted(job.images.length, "picture")}`;
      return make("button", {
        type: "button", class: "thumb", "aria-label": label, on: { click: () => this.deeds.open(image.image_id) },
      }, picture, more);
    }));
  }
}
