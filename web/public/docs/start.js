// A separate file, because the server's Content-Security-Policy forbids inline scripts.
SwaggerUIBundle({
  url: new URL('../openapi.json', document.currentScript.src).href,
  dom_id: '#swagger-ui',
  deepLinking: true,
  // The default sends the document to a validator on the internet.
  validatorUrl: null,
})
