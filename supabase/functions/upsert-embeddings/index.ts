// POST {rows: [{id, text}], collection?} embeds the texts and stores the vectors of those rows whose
// text still is what was sent. The answer says what became of each row; see
// docs/how-to/edge-function.md. It imports nothing, so that it starts in milliseconds and a deploy
// needs no registry.
import { handlerOf } from "./handler.ts";
import { settingsOf } from "./settings.ts";

Deno.serve(handlerOf(settingsOf(Deno.env)));
