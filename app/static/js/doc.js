// The page /doc: Swagger UI over our own descriptions, one for each dialect.

const place = document.getElementById("doc");

window.ui = window.SwaggerUIBundle({
  domNode: place,
  urls: JSON.parse(place.dataset.documents),
  layout: "StandaloneLayout",
  plugins: [() => ({ components: { Logo: () => null } })], // the logo has a style sheet within it, which our policy forbids
  presets: [window.SwaggerUIBundle.presets.apis, window.SwaggerUIStandalonePreset],
  deepLinking: true,
  docExpansion: "list",
  validatorUrl: null, // it would show our description to somebody else's server
});
