/**
 * Making elements. What comes from people or servers is always text here, never markup.
 * @module
 */

/**
 * Find an element of the page that must be there.
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [about] `class`, `text`, `on` ({event: listener}), `data`; everything else is an attribute.
 *     Attributes that are null, undefined or false are left out; true gives an empty one.
 * @param {...(Node|string|null|undefined)} children Strings become text.
 * @returns {HTMLElement}
 */
export function make(tag, about = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/**
 * Make a button that does something.
 * @param {string} text
 * @param {() => void} onClick
 * @param {Record<string, any>} [about]
 */
export function button(text, onClick, about = {}) {
  return make("button", { type: "button", text, on: { click: onClick }, ...about });
}

/** Show a text in an element, or hide the element when there is none; nothing happens when nothing changed. */
export function tell(element, text) {
  const words = text || "";
  if (element.textContent !== words) element.textContent = words;
  if (element.hidden !== !words) element.hidden = !words;
}

/** Say something to those who listen instead of looking. */
export function announce(text) {
  byId("news").textContent = text;
}
