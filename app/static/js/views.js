/**
 * The views of the page; the address after # says which one is open.
 * @module
 */

const views = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("main > .view")]);
const links = /** @type {HTMLAnchorElement[]} */ ([...document.querySelectorAll("nav [data-view]")]);

/** @param {(name: string) => void} onOpen is told which view is open */
export function setUpViews(onOpen) {
  const show = () => {
    const asked = location.hash.slice(1);
    const known = views.some((view) => view.dataset.view === asked);
    if (asked && !known && document.getElementById(asked)) return; // a link inside a view
    const open = known ? asked : "make";
    for (const view of views) view.hidden = view.dataset.view !== open;
    for (const link of links) {
      if (link.dataset.view === open) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    onOpen(open);
  };
  window.addEventListener("hashchange", show);
  show();
}
