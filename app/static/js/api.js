/**
 * Talking to the server: the token goes along, and problems come back in words.
 * @module
 */

import { current, header, needed, obtain } from "./token.js";

/** How long an answer may take; a server that is busy for longer is as good as away. */
const PATIENCE_MS = 20_000;

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

/** Tell the server to do something that needs no body. */
export async function tellServer(path) {
  return json(await send(path, { method: "POST" }));
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

async function send(path, request) {
  while (true) {
    const used = current();
    if (needed && !used) {
      await obtain(used);
      continue;
    }
    const answer = await once(path, { ...request, headers: { ...request.headers, ...header(used) } });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await refusal(answer);
    await obtain(used);
  }
}

async function once(path, request) {
  try {
    const answer = await fetch(path, { ...request, signal: AbortSignal.timeout(PATIENCE_MS) });
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
