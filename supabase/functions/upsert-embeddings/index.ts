// POST {rows: [{id, text}], collection?} embeds the texts and stores the vectors of the rows whose
// text is unchanged. The response reports each row; see docs/how-to/edge-function.md. The function
// has no dependencies, so it starts in milliseconds and deploys without a registry.
import { createHandler } from "./handler.ts";
import { readSettings } from "./settings.ts";

Deno.serve(createHandler(readSettings(Deno.env)));
