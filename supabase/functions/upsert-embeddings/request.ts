// Reads and validates a request within the limits of the settings.
import { Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";

export interface Row {
  readonly id: string;
  readonly text: string;
}

export interface UpsertRequest {
  readonly rows: readonly Row[];
  readonly collection: string | null;
}

const MAX_KEY_LENGTH = 1000;
// The characters that collection templates trim; see backline.compile_template.
const TRIMMED = /^[ \t\n\r]+|[ \t\n\r]+$/g;

export async function readRequest(request: Request, settings: Settings): Promise<UpsertRequest> {
  const body = parse(await readText(request, settings.maxBytes));
  if (!isObject(body) || !Array.isArray(body.rows) || body.rows.length === 0) {
    throw invalid("The body must be {rows: [{id, text}, …]} with at least one row.");
  }
  if (body.rows.length > settings.maxRows) {
    throw new Problem(
      413,
      "TooLargeError",
      `The request has ${body.rows.length} rows; the limit is ${settings.maxRows}. Send them in parts.`,
    );
  }
  const collection = body.collection ?? null;
  if (collection !== null && typeof collection !== "string") {
    throw invalid("collection must be a string.");
  }
  return { rows: body.rows.map(parseRow), collection };
}

function parseRow(row: unknown, index: number): Row {
  if (!isObject(row)) throw invalid(`rows[${index}] must be {id, text}.`);
  const { id, text } = row;
  if (typeof id === "number" ? !Number.isSafeInteger(id) : typeof id !== "string") {
    throw invalid(
      `rows[${index}].id must be a string or an integer; send larger integers as strings.`,
    );
  }
  const key = String(id);
  if (key === "" || key.length > MAX_KEY_LENGTH) {
    throw invalid(`rows[${index}].id must have 1 to ${MAX_KEY_LENGTH} characters.`);
  }
  if (typeof text !== "string") throw invalid(`rows[${index}].text must be a string.`);
  return { id: key, text: text.replace(TRIMMED, "") };
}

/** Read the body as text, up to a limit of bytes. */
async function readText(request: Request, limit: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ?? []) {
    size += chunk.length;
    if (size > limit) {
      throw new Problem(
        413,
        "TooLargeError",
        `The request has more than ${limit} bytes. Send fewer rows at once.`,
      );
    }
    chunks.push(chunk);
  }
  return await new Blob(chunks as BlobPart[]).text();
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw invalid("The body is not JSON.");
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(detail: string): Problem {
  return new Problem(422, "validation", detail);
}
