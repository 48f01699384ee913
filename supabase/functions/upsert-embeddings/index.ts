// POST {rows: [{id, text}], collection?} embeds the texts, and stores the vector of each row that
// still has the sent text. The response reports each row; see docs/how-to/edge-function.md. The
// function has no dependencies, so it starts in milliseconds and deploys without a registry.
import { createHandler } from "./handler.ts";
import { readSettings } from "./settings.ts";

Deno.serve(createHandler(readSettings(Deno.env)));
