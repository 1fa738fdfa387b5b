/**
 * The wall that pictures hang on. Only those near the window are elements, however many there are: ten thousand
 * tiles would make every scroll and every new picture slow.
 * @module
 */

import { layOut } from "./rows.js";

/** So far above and below the window tiles hang already, in windows: a flick of the wheel must not show a bare wall. */
const AHEAD = 0.75;

/** Who scrolls by more windows in a second than this looks for a place, not at pictures: they are fetched once it rests. */
const FAST = 4;
const REST_MS = 120;

export class Wall {
  /**
   * @param {HTMLElement} list
   * @param {(item: any) => HTMLElement} tileOf makes a picture's tile when it comes near
   * @param {(item: any) => void} fetch lets a tile's picture come
   */
  constructor(list, tileOf, fetch) {
    this.list = list;
    this.tileOf = tileOf;
    this.fetch = fetch;
    /** @type {any[]} */
    this.items = [];
    this.plan = layOut([], { width: 1, height: 1, gap: 0 });
    /** Those that are elements, in their order. @type {Map<number, any>} */
    this.hung = new Map();
    this.width = 0;
    this.asked = 0;
    this.resting = 0;
    this.last = { y: scrollY, at: 0 };
    /** When one last scrolled too fast to look at anything. */
    this.rushed = -REST_MS;
    addEventListener("scroll", () => this.moved(), { passive: true });
    addEventListener("resize", () => this.soon());
    new ResizeObserver(() => this.list.clientWidth !== this.width && this.arrange()).observe(list);
  }

  /** Show these pictures, in this order. @param {any[]} items */
  show(items) {
    const gone = new Set(this.hung.values());
    this.items = items;
    for (const item of items) gone.delete(item);
    for (const item of gone) drop(item);
    this.arrange();
  }

  /** Bring a picture into sight and return its tile. @returns {HTMLElement | null} */
  reveal(at) {
    const box = this.plan.boxes[at];
    if (!box) return null;
    const head = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) || 0;
    const top = this.list.getBoundingClientRect().top + box.top;
    if (top < head) scrollBy(0, top - head);
    else if (top + box.height > innerHeight) scrollBy(0, top + box.height - innerHeight);
    this.hang();
    return this.items[at].tile;
  }

  /** Give every picture its place anew; what one looks at stays where it is in the window. */
  arrange() {
    const width = this.list.clientWidth;
    if (!width) return; // the view is closed
    this.width = width;
    const look = getComputedStyle(this.list);
    const held = this.anchor();
    this.plan = layOut(this.items.map((item) => item.image), {
      width, height: parseFloat(look.getPropertyValue("--height")), gap: parseFloat(look.rowGap) || 0,
    });
    this.list.style.height = `${this.plan.height}px`;
    if (held) {
      const at = this.items.indexOf(held.item);
      if (at >= 0) scrollBy(0, this.plan.boxes[at].top - held.top);
    }
    this.hang();
  }

  /** The first picture in the window, when one has scrolled down to it. */
  anchor() {
    const above = -this.list.getBoundingClientRect().top;
    if (above <= 0) return null;
    const row = this.plan.rows[firstBelow(this.plan.rows, above)];
    const first = row && [...this.hung].find(([at, item]) => at >= row.first && item.tile);
    return first ? { item: first[1], top: this.plan.boxes[first[0]].top } : null;
  }

  moved() {
    const now = { y: scrollY, at: performance.now() };
    const windows = Math.abs(now.y - this.last.y) / innerHeight;
    if (windows > (FAST / 1000) * Math.max(16, now.at - this.last.at)) this.rushed = now.at;
    this.last = now;
    this.soon();
  }

  soon() {
    this.asked ||= requestAnimationFrame(() => {
      this.asked = 0;
      this.hang();
    });
  }

  /** Make elements of what is near the window, and take down what is not. The focus is never taken down. */
  hang() {
    const above = -this.list.getBoundingClientRect().top;
    const ahead = AHEAD * innerHeight;
    const [from, to] = [above - ahead, above + innerHeight + ahead];
    const near = new Map();
    for (let row = firstBelow(this.plan.rows, from); row < this.plan.rows.length && this.plan.rows[row].top < to; row += 1) {
      for (let at = this.plan.rows[row].first; at < this.plan.rows[row].end; at += 1) near.set(at, this.items[at]);
    }
    const focused = this.items.findIndex((item) => item.tile?.contains(document.activeElement));
    if (focused >= 0) near.set(focused, this.items[focused]);
    const kept = new Set(near.values());
    for (const item of this.hung.values()) if (!kept.has(item)) drop(item);
    this.hung = new Map([...near].sort(([one], [other]) => one - other));
    let before = null; // the order of elements is the order of the Tab key
    for (const [at, item] of this.hung) {
      item.tile ??= this.tileOf(item);
      place(item.tile, this.plan.boxes[at]);
      if (item.tile.parentNode !== this.list || item.tile.previousElementSibling !== before) {
        this.list.insertBefore(item.tile, before ? before.nextSibling : this.list.firstChild);
      }
      item.tile.setAttribute("aria-posinset", String(at + 1));
      item.tile.setAttribute("aria-setsize", "-1"); // nobody knows how many there are until one has seen the last
      before = item.tile;
    }
    this.look();
  }

  /** Let the pictures come, unless one is only rushing by. */
  look() {
    clearTimeout(this.resting);
    const wait = this.rushed + REST_MS - performance.now();
    if (wait > 0) {
      this.resting = setTimeout(() => this.look(), wait);
      return;
    }
    for (const item of this.hung.values()) {
      if (item.fetched) continue;
      item.fetched = true;
      this.fetch(item);
    }
  }
}

function drop(item) {
  item.tile?.remove();
  Object.assign(item, { tile: null, fetched: false });
}

/** Moved by `translate`, which costs no new layout of the page. */
function place(tile, box) {
  const wanted = { translate: `${box.left}px ${box.top}px`, width: `${box.width}px`, height: `${box.height}px` };
  for (const [name, value] of Object.entries(wanted)) if (tile.style[name] !== value) tile.style[name] = value;
}

/** Which row is the first that ends below a line. */
function firstBelow(rows, line) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].bottom < line) low = middle + 1;
    else high = middle;
  }
  return low;
}
