// Handles a request: authorizes the caller, reads the rows, and embeds and stores them.
import { requireCaller } from "./callers.ts";
import { Database } from "./database.ts";
import { createEmbedder } from "./embedders.ts";
import { Problem } from "./problems.ts";
import { readRequest } from "./request.ts";
import type { Settings } from "./settings.ts";
import { Upsert } from "./upsert.ts";

export function createHandler(settings: Settings): (request: Request) => Promise<Response> {
  return async (request) => {
    const requestId = request.headers.get("x-request-id") ?? crypto.randomUUID();
    const path = new URL(request.url).pathname;
    try {
      return await handle(request, settings);
    } catch (error) {
      if (error instanceof Problem) return error.response(path, requestId);
      console.error(
        requestId,
        error instanceof Error ? `${error.name}: ${error.message}` : "error",
      );
      return new Problem(500, "internal", "The function failed. Its log has the reason.")
        .response(path, requestId);
    }
  };
}

async function handle(request: Request, settings: Settings): Promise<Response> {
  if (request.method !== "POST" && request.method !== "GET") {
    throw new Problem(405, "http", "Use POST, or GET for the model that the function embeds with.");
  }
  requireCaller(request.headers, settings.callerSecrets);
  const database = new Database(settings);
  if (request.method === "GET") {
    return await describe(new URL(request.url).searchParams.get("collection"), database, settings);
  }
  const began = performance.now();
  const body = await readRequest(request, settings);
  const collection = await database.collection(body.collection);
  const embed = createEmbedder(collection.model, settings);
  const report = await new Upsert(database, collection, embed, began).run(body.rows);
  const complete = report.skipped.length === 0 && report.failed.length === 0;
  return Response.json(report, { status: complete ? 200 : 207 });
}

/** Describe the collection, its model and the limits, after checking that the model can run here. */
async function describe(
  name: string | null,
  database: Database,
  settings: Settings,
): Promise<Response> {
  const collection = await database.collection(name);
  createEmbedder(collection.model, settings);
  return Response.json({
    collection: collection.name,
    model: collection.model,
    max_rows: settings.maxRows,
    max_body_bytes: settings.maxBytes,
  });
}
