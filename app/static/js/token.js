/**
 * The visitor's API token: asked for once, kept in this browser, never part of an address.
 * @module
 */

import { byId, tell } from "./dom.js";
import { read, TOKEN, write } from "./store.js";

/** Whether the server wants a token at all: it says so in the page. */
export const needed = document.body.dataset.needsToken === "yes";

/** Tells "change" when another token is in use. */
export const token = new EventTarget();

/** What can stand in an HTTP header: RFC 9110, section 5.5, without blanks. */
const SENDABLE = /^[\x21-\x7e]+$/;

/** @type {{promise: Promise<void>, resolve: () => void, reject: (reason: Error) => void} | null} */
let asking = null;
let declined = false;

/** Nobody gave a token. */
export class NoToken extends Error {
  constructor() {
    super("This fleet asks for a token. Press “Token” at the top to enter it.");
    this.name = "NoToken";
  }
}

/** @returns {string|null} */
export function current() {
  return needed ? read(TOKEN) : null;
}

/** @param {string|null} value @returns {Record<string, string>} */
export function header(value = current()) {
  return value ? { Authorization: `Bearer ${value}` } : {};
}

/**
 * Get a token that the server takes, asking the visitor once however many requests want it.
 * Rejects with NoToken when the visitor would rather not.
 * @param {string|null} refused the token that was just refused
 * @returns {Promise<void>}
 */
export function obtain(refused) {
  if (current() !== refused) return Promise.resolve(); // another request has asked meanwhile
  if (declined) return Promise.reject(new NoToken());
  if (!asking) {
    asking = Promise.withResolvers ? Promise.withResolvers() : withResolvers();
    open(refused ? "The server does not take this token. Is there a newer one?" : "");
  }
  return asking.promise;
}

function withResolvers() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

function open(problem) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("token-dialog"));
  tell(byId("token-problem"), problem);
  byId("token-forget").hidden = !current();
  const field = /** @type {HTMLInputElement} */ (byId("token"));
  field.value = "";
  if (!dialog.open) dialog.showModal();
  field.focus();
}

async function submit(event) {
  event.preventDefault();
  const field = /** @type {HTMLInputElement} */ (byId("token"));
  const problem = byId("token-problem");
  const given = field.value.trim();
  const wrong = await whatIsWrong(given);
  field.setAttribute("aria-invalid", String(Boolean(wrong)));
  tell(problem, wrong);
  if (wrong) {
    field.select();
    return;
  }
  write(TOKEN, given);
  declined = false;
  asking?.resolve();
  asking = null;
  byId("token-dialog").close();
  token.dispatchEvent(new Event("change"));
}

/** Try a token before it is kept. */
async function whatIsWrong(given) {
  if (!given) return "Enter the token.";
  if (!SENDABLE.test(given)) return "A token has no blanks and no special letters. Was it copied whole?";
  try {
    const answer = await fetch("/v1/jobs?limit=1", { headers: header(given) });
    if (answer.status === 401) return "The server does not take this token. Please check it.";
    return "";
  } catch {
    return "The server does not answer. Try again in a moment.";
  }
}

/** Join the dialog to the page. */
export function setUpToken() {
  byId("token-form").addEventListener("submit", submit);
  byId("token-button").addEventListener("click", () => open(""));
  byId("token-forget").addEventListener("click", () => {
    write(TOKEN, null);
    location.reload();
  });
  byId("token-dialog").addEventListener("close", () => {
    if (!asking) return;
    declined = true;
    asking.reject(new NoToken());
    asking = null;
  });
}
