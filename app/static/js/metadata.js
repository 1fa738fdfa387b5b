/**
 * A picture that is dropped on the page fills the form: with the order that we write into our files, or with the
 * parameters that Automatic1111 writes into its own. One that says nothing becomes the picture to begin with.
 * @module
 */

import { ask } from "./api.js";
import { begin } from "./beginning.js";
import { announce, byId, tell } from "./dom.js";
import { takeSettings } from "./form.js";
import { models } from "./models.js";

/** Automatic1111's words for "as the sampler does by itself". */
const NO_SCHEDULE = new Set(["", "Automatic", "Uniform"]);

/** Fill the form from a picture. Says what is wrong beside the form, and throws nothing. @param {File} file */
export async function takeFile(file) {
  tell(byId("form-problem"), "");
  try {
    const settings = await settingsIn(file);
    if (settings) {
      takeSettings(settings);
    } else {
      await begin(file);
      announce("This picture does not say how it was drawn. It is the picture to begin with now.");
    }
  } catch (problem) {
    tell(byId("form-problem"), `${file.name} could not be read: ${problem.message}`);
  }
}

async function settingsIn(file) {
  const told = await ask("/a1111/sdapi/v1/png-info", { image: await inBase64(file) });
  return ours(told.items?.imagefleet) ?? theirs(told.parameters ?? {});
}

/** @returns {Promise<string>} */
async function inBase64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const parts = [];
  for (let at = 0; at < bytes.length; at += 0x8000) parts.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
  return btoa(parts.join(""));
}

function ours(text) {
  try {
    const found = JSON.parse(text ?? "null");
    return typeof found?.prompt === "string" ? found : null;
  } catch {
    return null;
  }
}

function theirs(parameters) {
  if (!parameters.Prompt && !parameters.Steps) return null;
  const number = (name) => (Number.isFinite(Number(parameters[name])) && parameters[name] !== undefined ? Number(parameters[name]) : undefined);
  return {
    model_id: modelIn(parameters),
    prompt: parameters.Prompt ?? "",
    negative_prompt: parameters["Negative prompt"],
    steps: number("Steps"),
    guidance_scale: number("CFG scale"),
    seed: number("Seed"),
    width: number("Size-1"),
    height: number("Size-2"),
    scheduler: schedulerIn(parameters),
  };
}

function schedulerIn(parameters) {
  const { Sampler: sampler, "Schedule type": schedule = "" } = parameters;
  return sampler && !NO_SCHEDULE.has(schedule) ? `${sampler} ${schedule}` : sampler;
}

/** Find the checkpoint by its hash, or else by its name. */
function modelIn(parameters) {
  const { Model: name = "", "Model hash": hash = "" } = parameters;
  const ready = models.list.filter((model) => !model.engine);
  const byHash = hash.length >= 8 && ready.find((model) => (model.hash ?? "").replace("sha256:", "").startsWith(hash.toLowerCase()));
  const byName = ready.find((model) => model.id === name || (model.name ?? "").replace(/\.[^.]*$/, "") === name);
  return (byHash || byName)?.id ?? (name || undefined);
}
