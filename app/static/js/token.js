/**
 * The API token: asked for once, and then kept by the browser in a cookie that no script can read.
 * @module
 */

import { byId, tell } from "./dom.js";

/** Whether the server wants a token at all: it says so in the page. */
export const needed = document.body.dataset.needsToken === "yes";

/** Tells "change" when another token is in use. */
export const token = new EventTarget();

/** What can stand in an HTTP header: RFC 9110, section 5.5, without blanks. */
const SENDABLE = /^[\x21-\x7e]+$/;

const SESSION = "/v1/session";

/** @type {{promise: Promise<void>, resolve: () => void, reject: (reason: Error) => void} | null} */
let asking = null;
let declined = false;
/** How often a token was entered: a request that was refused before the last time only has to be sent again. */
let round = 0;

/** Nobody gave a token. */
export class NoToken extends Error {
  constructor() {
    super("This fleet asks for a token. Press “Token” at the top to enter it.");
    this.name = "NoToken";
  }
}

/** Which token is in use, for `obtain`. */
export function inUse() {
  return round;
}

/**
 * Get a token that the server takes, asking the visitor once however many requests want it.
 * Rejects with NoToken when the visitor would rather not.
 * @param {number} refused which one was refused, as `inUse` said before
 * @param {boolean} wasShown whether there was one at all
 * @returns {Promise<void>}
 */
export function obtain(refused, wasShown) {
  if (round !== refused) return Promise.resolve(); // another request has asked meanwhile
  if (declined) return Promise.reject(new NoToken());
  if (!asking) {
    asking = Promise.withResolvers ? Promise.withResolvers() : withResolvers();
    open("");
  }
  const problem = byId("token-problem"); // of several requests only the first may have shown it: the server lets the browser forget it
  if (wasShown && !problem.textContent) tell(problem, "The server does not take this token. Is there a newer one?");
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
  byId("token-forget").hidden = asking !== null;
  const field = /** @type {HTMLInputElement} */ (byId("token"));
  field.value = "";
  if (!dialog.open) dialog.showModal();
  field.focus();
}

async function submit(event) {
  event.preventDefault();
  const field = /** @type {HTMLInputElement} */ (byId("token"));
  const problem = byId("token-problem");
  const wrong = await whatIsWrong(field.value.trim());
  field.setAttribute("aria-invalid", String(Boolean(wrong)));
  tell(problem, wrong);
  if (wrong) {
    field.select();
    return;
  }
  field.value = "";
  round += 1;
  declined = false;
  asking?.resolve();
  asking = null;
  byId("token-dialog").close();
  token.dispatchEvent(new Event("change"));
}

/** Show a token to the server, which lets the browser keep it if it is right. */
async function whatIsWrong(given) {
  if (!given) return "Enter the token.";
  if (!SENDABLE.test(given)) return "A token has no blanks and no special letters. Was it copied whole?";
  try {
    const answer = await fetch(SESSION, { method: "POST", headers: { Authorization: `Bearer ${given}` } });
    if (answer.ok) return "";
    if (answer.status === 401) return "The server does not take this token. Please check it.";
    const told = await answer.json().catch(() => null);
    return told?.error?.message ?? `The server answered ${answer.status}.`;
  } catch {
    return "The server does not answer. Try again in a moment.";
  }
}

/** Join the dialog to the page. */
export function setUpToken() {
  byId("token-form").addEventListener("submit", submit);
  byId("token-button").addEventListener("click", () => open(""));
  byId("token-forget").addEventListener("click", async () => {
    await fetch(SESSION, { method: "DELETE" }).catch(() => undefined);
    location.reload();
  });
  byId("token-dialog").addEventListener("close", () => {
    if (!asking) return;
    declined = true;
    asking.reject(new NoToken());
    asking = null;
  });
}
