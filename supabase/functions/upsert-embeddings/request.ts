// Reading a request, within bounds.
import { Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";

export interface Row {
  readonly id: string;
  readonly text: string;
}

export interface Asked {
  readonly rows: readonly Row[];
  readonly collection: string | null;
}

const LONGEST_KEY = 1000;
// What the templates of collections trim; see backline.compile_template.
const TRIMMED = /^[ \t\n\r]+|[ \t\n\r]+$/g;

export async function read(request: Request, settings: Settings): Promise<Asked> {
  const body = parse(await bounded(request, settings.maxBytes));
  if (!isObject(body) || !Array.isArray(body.rows) || body.rows.length === 0) {
    throw invalid("The body must be {rows: [{id, text}, …]} with at least one row.");
  }
  if (body.rows.length > settings.maxRows) {
    throw new Problem(
      413,
      "TooLargeError",
      `The request has ${body.rows.length} rows; at most ${settings.maxRows} are taken at once. Send them in parts.`,
    );
  }
  const collection = body.collection ?? null;
  if (collection !== null && typeof collection !== "string") {
    throw invalid("collection must be a text.");
  }
  return { rows: body.rows.map(rowOf), collection };
}

function rowOf(row: unknown, at: number): Row {
  if (!isObject(row)) throw invalid(`rows[${at}] must be {id, text}.`);
  const { id, text } = row;
  if (typeof id === "number" ? !Number.isSafeInteger(id) : typeof id !== "string") {
    throw invalid(`rows[${at}].id must be a text or a whole number; larger ones go as text.`);
  }
  const key = String(id);
  if (key === "" || key.length > LONGEST_KEY) {
    throw invalid(`rows[${at}].id must have 1 to ${LONGEST_KEY} characters.`);
  }
  if (typeof text !== "string") throw invalid(`rows[${at}].text must be a text.`);
  return { id: key, text: text.replace(TRIMMED, "") };
}

/** The body as text; one that is too long is not read to its end. */
async function bounded(request: Request, most: number): Promise<string> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of request.body ?? []) {
    size += piece.length;
    if (size > most) {
      throw new Problem(
        413,
        "TooLargeError",
        `The request has more than ${most} bytes. Send fewer rows at once.`,
      );
    }
    pieces.push(piece);
  }
  return await new Blob(pieces as BlobPart[]).text();
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
