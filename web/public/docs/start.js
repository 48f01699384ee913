// A file of its own, because the server's Content-Security-Policy lets no page run inline scripts.
SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#swagger-ui',
  deepLinking: true,
  // The default sends the document to a validator in the network.
  validatorUrl: null,
})
