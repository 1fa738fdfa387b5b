/**
 * Talking to the server: where it wants a token the visitor is asked for one, and problems come back in words.
 * @module
 */

import { inUse, obtain } from "./token.js";

/** How long an answer may take; a server that is busy for longer is as good as away. */
const PATIENCE_MS = 20_000;
/** The same while a file is on its way. */
const UPLOAD_MS = 120_000;

/** A proxy says with these that the server behind it is away. */
const AWAY = new Set([502, 503, 504]);

/** The server said no; the message is for people. */
export class Refused extends Error {
  constructor(status, code, message, fields) {
    super(message);
    this.name = "Refused";
    this.status = status;
    this.code = code;
    /** @type {Record<string, any>} */
    this.fields = fields ?? {};
  }
}

/** Nobody answered: the network is down, or the server is. */
export class Away extends Error {
  constructor(options) {
    super("The server does not answer.", options);
    this.name = "Away";
  }
}

/** Tells "change" when the server goes away or comes back. */
export const connection = Object.assign(new EventTarget(), { up: true });

function note(up) {
  if (connection.up === up) return;
  connection.up = up;
  connection.dispatchEvent(new Event("change"));
}

/**
 * Ask the server for JSON. Throws Refused, Away, or NoToken.
 * @param {string} path
 * @param {any} [body] makes it a POST
 * @returns {Promise<any>}
 */
export async function ask(path, body) {
  const answer = await send(path, body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return json(answer);
}

/**
 * Ask for all pages of a list. Throws as `ask` does.
 * @param {string} path
 * @param {string} name of the list in the answers
 * @returns {Promise<any[]>}
 */
export async function askAll(path, name) {
  const all = [];
  for (let query = ""; query !== null;) {
    const page = await ask(path + query);
    all.push(...page[name]);
    const next = page.next ?? null;
    query = next === null ? null : `?after=${encodeURIComponent(next)}`;
  }
  return all;
}

/** Tell the server to do something that needs no body. */
export async function tellServer(path) {
  return json(await send(path, { method: "POST" }));
}

/**
 * Change something with one of HTTP's other methods; the answer is null where there is none.
 * @param {string} method
 * @param {string} path
 * @param {any} [body]
 * @param {RequestInit} [how] what `fetch` is to know besides
 */
export async function change(method, path, body, how = {}) {
  const more = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await send(path, { method, ...more, ...how });
  return answer.status === 204 ? null : json(answer);
}

/** Send a file as it is. @param {string} path @param {Blob} file */
export async function sendFile(path, file) {
  return json(await send(path, { method: "POST", headers: { "Content-Type": file.type }, body: file }, UPLOAD_MS));
}

/** What is no JSON is not from our server: a login page of a network, say. */
function json(answer) {
  return answer.json().catch((cause) => {
    throw new Away({ cause });
  });
}

/** Fetch a picture's bytes. */
export async function askForBlob(path) {
  return (await send(path, {})).blob();
}

async function send(path, request, patience = PATIENCE_MS) {
  while (true) {
    const used = inUse();
    const answer = await once(path, request, patience);
    if (answer.ok) return answer;
    const problem = await refusal(answer);
    if (answer.status !== 401) throw problem;
    await obtain(used, problem.code === "wrong_token");
  }
}

async function once(path, request, patience) {
  try {
    const answer = await fetch(path, { ...request, signal: AbortSignal.timeout(patience) });
    if (AWAY.has(answer.status) && !isJson(answer)) throw new Error(`${answer.status} from a proxy`);
    note(true);
    return answer;
  } catch (cause) {
    note(false);
    throw new Away({ cause });
  }
}

function isJson(answer) {
  return (answer.headers.get("Content-Type") ?? "").includes("json");
}

async function refusal(answer) {
  const body = isJson(answer) ? await answer.json().catch(() => null) : null;
  const error = body?.error;
  const message = typeof error === "string" ? error : error?.message;
  return new Refused(
    answer.status,
    error?.code ?? "error",
    message || `The server answered ${answer.status} without a reason.`,
    error?.fields,
  );
}
