// Draws the page from the service's own description of itself.
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  // Its badge would send the description to a public validator.
  validatorUrl: null,
});
