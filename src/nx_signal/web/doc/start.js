SwaggerUIBundle({
  url: "doc/openapi.json",
  dom_id: "#viewer",
  deepLinking: true,
  validatorUrl: null, // would send the document to a service on the internet
});
