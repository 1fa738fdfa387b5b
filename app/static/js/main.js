/**
 * The page: joins the form, the jobs, the gallery and the fleet.
 * @module
 */

import { connection } from "./api.js";
import { button, byId, tell } from "./dom.js";
import { setFleetOpen } from "./fleet.js";
import { setUpForm, suggest } from "./form.js";
import * as gallery from "./gallery.js";
import { sendOrder, setUpJobs } from "./jobs.js";
import { follow as followModels } from "./models.js";
import { setUpToken, token } from "./token.js";
import { openViewer, setUpViewer } from "./viewer.js";
import { setUpViews } from "./views.js";
import { wakeAll } from "./watch.js";

const EXAMPLES = [
  "a red circle on a blue background",
  "a yellow triangle on a purple background",
  "a green square on a white background",
];

function lookAgain() {
  wakeAll();
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
setUpJobs({
  onDone: gallery.add,
  onOpen: (imageId) => openViewer(gallery.positionOf(imageId)),
});
setUpViews((view) => setFleetOpen(view === "fleet"));
byId("examples").append(...EXAMPLES.map((prompt) => button(prompt, () => suggest(prompt), { class: "example" })));
connection.addEventListener("change", showConnection);
token.addEventListener("change", lookAgain);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) gallery.refresh();
});
followModels();
gallery.refresh();
