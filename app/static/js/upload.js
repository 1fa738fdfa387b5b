/**
 * Pictures that an order begins with or is steered by: they are sent once, and orders name them afterwards.
 * @module
 */

import { sendFile } from "./api.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

/** For the `accept` of file fields. */
export const ACCEPTED = KINDS.join(",");

/** @typedef {{id: string, width: number, height: number}} Sent A picture that the server keeps. */

/**
 * Send a picture; the same one is kept once. Throws an Error with words for people.
 * @param {Blob} file
 * @returns {Promise<Sent>}
 */
export async function upload(file) {
  if (!KINDS.includes(file.type)) throw new Error("Only PNG, JPEG and WebP pictures can be used.");
  const kept = await sendFile("/v1/inputs", file);
  return { id: kept.input_id, width: kept.width, height: kept.height };
}

/** Where a picture that was sent can be seen. */
export function addressOf(id) {
  return `/v1/inputs/${encodeURIComponent(id)}`;
}

/** Find the first picture among what was dropped or pasted; null when there is none. @param {DataTransfer|null} data */
export function pictureIn(data) {
  return [...(data?.files ?? [])].find((file) => KINDS.includes(file.type)) ?? null;
}
