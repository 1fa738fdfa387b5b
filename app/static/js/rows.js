/**
 * Rows of pictures: all of about one height, each as wide as the wall, every picture as wide as it is. Pure.
 * @module
 */

/** Wider than this, a panorama would leave no room in its row; narrower, a tower would be a line. */
const RATIO = { least: 0.5, most: 2.4 };

/** @typedef {{left: number, top: number, width: number, height: number}} Box In pixels, from the wall's corner. */
/** @typedef {{top: number, bottom: number, first: number, end: number}} Row Pictures from `first` up to `end`. */

/**
 * Give every picture its place.
 * @param {{width: number, height: number}[]} pictures in their order
 * @param {{width: number, height: number, gap: number}} wall its width, and the height that rows should have
 * @returns {{boxes: Box[], rows: Row[], height: number}}
 */
export function layOut(pictures, wall) {
  const boxes = [];
  const rows = [];
  let top = 0;
  for (let first = 0; first < pictures.length;) {
    let [end, sum] = [first, 0];
    while (end < pictures.length && natural(sum, end - first, wall) < wall.width) sum += ratioOf(pictures[end++]);
    const gaps = wall.gap * (end - first - 1);
    const isFull = natural(sum, end - first, wall) >= wall.width; // the last row is not stretched
    const height = Math.round(isFull ? (wall.width - gaps) / sum : wall.height);
    let [left, passed] = [0, 0];
    for (let at = first; at < end; at += 1) {
      passed += ratioOf(pictures[at]);
      // Rounded from the left edge on: the last one ends where the row does.
      const right = Math.round(isFull ? ((wall.width - gaps) * passed) / sum : wall.height * passed) + wall.gap * (at - first);
      boxes.push({ left, top, width: right - left, height });
      left = right + wall.gap;
    }
    rows.push({ top, bottom: top + height, first, end });
    top += height + wall.gap;
    first = end;
  }
  return { boxes, rows, height: Math.max(0, top - wall.gap) };
}

/** How wide so many pictures of the wished height are. */
function natural(sum, count, wall) {
  return sum * wall.height + Math.max(0, count - 1) * wall.gap;
}

function ratioOf({ width, height }) {
  return Math.min(RATIO.most, Math.max(RATIO.least, width / height)) || 1;
}
