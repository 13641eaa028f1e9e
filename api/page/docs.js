// The page of the API: Swagger UI, as the package fastapi-offline carries it.

window.SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true });
