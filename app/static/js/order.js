/**
 * An order for pictures: what of a job's parameters can be sent again, shown, and copied.
 * @module
 */

const SENT = [
  "model_id", "engine_id", "prompt", "negative_prompt", "steps", "guidance_scale", "width", "height", "seed", "n",
  "scheduler", "image_format", "subseed", "subseed_strength", "clip_skip", "image", "strength", "resize_mode", "mask",
  "hires", "upscale", "loras", "embeddings", "controls", "remove_background", "safety_check",
];

/** What the server has found out about a control by itself. */
const OF_THE_SERVER = ["annotator"];

/** Make an order out of a job's parameters: the same again. */
export function orderAgain(parameters) {
  const order = said({ ...Object.fromEntries(SENT.map((name) => [name, parameters[name]])), vae: parameters.vae_id });
  if (order.engine_id) delete order.model_id; // an order names one of them
  return order;
}

/** Leave out what says nothing, however deep it is in. */
function said(value) {
  if (Array.isArray(value)) return value.map(said);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(([name, each]) => each !== undefined && each !== null && !OF_THE_SERVER.includes(name));
  return Object.fromEntries(kept.map(([name, each]) => [name, said(each)]));
}

/**
 * Parameters of one picture as rows to show: [name, value].
 * @param {any} job
 * @param {any} image
 * @returns {[string, string][]}
 */
export function rows(job, image) {
  const used = job.parameters;
  const all = [
    ["Model", used.model_id ?? job.model_id],
    ["Negative prompt", used.negative_prompt],
    ["Size", `${image.width} × ${image.height}`],
    ["Steps", used.steps],
    ["Guidance", used.guidance_scale],
    ["Scheduler", used.scheduler],
    ["Seed", image.seed],
    ["Begun with", used.image && (used.mask ? "a picture with a mask" : "a picture")],
    ["Strength", used.image && used.strength],
    ["LoRAs", (used.loras ?? []).map((lora) => `${lora.model_id} (${lora.weight})`).join(", ")],
    ["Steered by", (used.controls ?? []).map((control) => control.kind).join(", ")],
    ["VAE", used.vae_id],
    ["Embeddings", (used.embeddings ?? []).join(", ")],
    ["Second pass", used.hires && `${used.hires.scale} × by ${used.hires.upscaler}, strength ${used.hires.strength}`],
    ["Enlarged", used.upscale && `${used.upscale.factor} × by ${used.upscale.upscaler}`],
    ["Background", used.remove_background && "removed"],
    ["Drawn", new Date(job.ended_at ?? job.created_at).toLocaleString()],
    ["File", image.media_type],
    ["Job", job.job_id],
  ];
  return all.filter(([, value]) => value !== undefined && value !== null && value !== "").map(([k, v]) => [k, String(v)]);
}

/**
 * Parameters as one text, in the form that Automatic1111 writes into its files and most programs read.
 * @param {any} job
 * @param {any} image
 */
export function asText(job, image) {
  const used = job.parameters;
  const facts = {
    Steps: used.steps,
    Sampler: used.scheduler,
    "CFG scale": used.guidance_scale,
    Seed: image.seed,
    Size: `${image.width}x${image.height}`,
    Model: used.model_id,
  };
  const told = Object.entries(facts).filter(([, value]) => value !== undefined && value !== null);
  return [
    used.prompt,
    used.negative_prompt ? `Negative prompt: ${used.negative_prompt}` : null,
    told.map(([name, value]) => `${name}: ${value}`).join(", "),
  ].filter((line) => line !== null).join("\n");
}

/** A name for the file of a picture: no character of it can mean anything to a file system. */
export function fileName(job, image) {
  const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[image.media_type] ?? "png";
  const model = String(job.model_id ?? "picture").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "").slice(0, 60);
  return `${model || "picture"}-${image.seed}-${String(image.image_id).slice(0, 8)}.${ending}`;
}
