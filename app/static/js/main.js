/**
 * The page: joins the form, the jobs, the gallery and the fleet.
 * @module
 */

import { connection } from "./api.js";
import { finishDeleting } from "./deeds.js";
import { button, byId, tell } from "./dom.js";
import { setUpForm, suggest } from "./form.js";
import * as gallery from "./gallery.js";
import { sendOrder, setUpJobs } from "./jobs.js";
import { follow as followModels } from "./models.js";
import { setUpToken, token } from "./token.js";
import { pictureIn } from "./upload.js";
import { openViewer, setUpViewer } from "./viewer.js";
import { setUpViews } from "./views.js";
import { comeBack } from "./watch.js";

/** Views that most visits never open; each has `setOpen`. */
const VIEWS = {
  fleet: () => import("./fleet.js"),
  models: () => import("./catalogue.js"),
  engines: () => import("./engines.js"),
};
/** @type {Set<string>} */
const opened = new Set();

/** A picture that is dropped anywhere but on a place of its own says how to draw one like it. */
function setUpDrops() {
  document.addEventListener("dragover", (event) => event.preventDefault()); // or the browser opens the file instead
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    const dropped = pictureIn(event.dataTransfer);
    if (dropped) (await import("./metadata.js")).takeFile(dropped);
  });
}

/** So long the gallery is held back until the jobs of the last visit stand above it. */
const MOST_WAIT_MS = 1000;

const EXAMPLES = [
  "a red circle on a blue background",
  "a yellow triangle on a purple background",
  "a green square on a white background",
];

function lookAgain() {
  comeBack();
  followModels();
  gallery.refresh();
}

function showConnection() {
  tell(byId("link-state"), connection.up ? "" : "No connection to the server. Trying again …");
  if (connection.up) lookAgain();
}

setUpToken();
setUpForm(sendOrder);
gallery.setUpGallery(openViewer);
setUpViewer();
const restored = setUpJobs({
  onDone: gallery.add,
  onOpen: (imageId) => openViewer(gallery.positionOf(imageId)),
});
// Cards that come after the gallery would push it down under the visitor's eyes.
Promise.race([restored, new Promise((done) => setTimeout(done, MOST_WAIT_MS))]).then(() => byId("results").classList.remove("waiting"));
setUpViews(async (open) => {
  for (const [view, load] of Object.entries(VIEWS)) {
    if (view === open || opened.has(view)) (await load()).setOpen(view === open);
    if (view === open) opened.add(view);
  }
});
byId("examples").append(...EXAMPLES.map((prompt) => button(prompt, () => suggest(prompt), { class: "example" })));
setUpDrops();
connection.addEventListener("change", showConnection);
token.addEventListener("change", lookAgain);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) gallery.refresh();
});
followModels();
finishDeleting();
gallery.refresh();
