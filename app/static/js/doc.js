// The page /doc: Swagger UI over our own descriptions, one for each dialect.

const place = document.getElementById("doc");

/** Whether a value is chosen from a list. @param {any} schema an Immutable Map */
function isChosen(schema) {
  return Boolean(schema?.get("enum") || schema?.getIn(["items", "enum"]) || schema?.get("type") === "boolean");
}

/**
 * What of Swagger UI is not for everybody, put right: lists and buttons without a name, a link within a button.
 * @param {{React: any}} system
 */
function forEverybody({ React: { createElement } }) {
  const named = (Field) => (about) => {
    if (!isChosen(about.schema)) return createElement(Field, about);
    const name = createElement("span", { className: "unseen" }, about.description || "Value");
    return createElement("label", null, name, createElement(Field, about));
  };
  return {
    components: {
      Logo: () => null, // it has a style sheet within it, which our policy forbids
      ServersContainer: () => null, // there is one, this one, and the list to choose it from has no name
      DeepLink: ({ text }) => createElement("span", null, text), // it stands in a button, which leads there as well
      CloseIcon: () => createElement("span", { role: "img", "aria-label": "Close" }, "✕"),
    },
    wrapComponents: { JsonSchemaForm: named },
  };
}

window.ui = window.SwaggerUIBundle({
  domNode: place,
  urls: JSON.parse(place.dataset.documents),
  layout: "StandaloneLayout",
  plugins: [forEverybody],
  presets: [window.SwaggerUIBundle.presets.apis, window.SwaggerUIStandalonePreset],
  deepLinking: true,
  docExpansion: "list",
  syntaxHighlight: { theme: "monokai" }, // of its themes the one whose words can be read best; doc.css mends one colour
  validatorUrl: null, // it would show our description to somebody else's server
});
