// What becomes of a request: check the caller, read it, look what each row needs, embed, store, answer.
import { requireCaller } from "./callers.ts";
import {
  type Action,
  type Collection,
  Database,
  type Found,
  type NewVector,
  Refused,
} from "./database.ts";
import { type Embed, embedderOf, nameOf, Rejected, vectorText } from "./embedders.ts";
import { Problem } from "./problems.ts";
import { read, type Row } from "./request.ts";
import type { Settings } from "./settings.ts";

// The platform ends a request after 150 s; what is not embedded by then is left for the next one.
const ENOUGH_MS = 100_000;
// Texts in one call of the embedder.
const BATCH = 50;

const REASONS: Record<string, string> = {
  gone: "There is no row with this id.",
  changed: "The row's text is another one than was sent; send the text that the table has.",
  busy: "Somebody's open transaction holds the row; send it again later.",
  lost: "Its vector is no longer in the cache; send it again.",
  twice: "This id came before in the same request; only its first text counts.",
  time: "There was no time left for it; send it again.",
};

interface Hashed extends Row {
  readonly hash: string;
}

interface Prepared extends Hashed, Found {}

interface Made {
  readonly row: Prepared;
  readonly vector: string | null;
}

const NOWHERE: Found = { action: "gone", key: "" };

export function handlerOf(settings: Settings): (request: Request) => Promise<Response> {
  return async (request) => {
    const requestId = request.headers.get("x-request-id") ?? crypto.randomUUID();
    const path = new URL(request.url).pathname;
    try {
      return await answer(request, settings);
    } catch (error) {
      if (error instanceof Problem) return error.response(path, requestId);
      console.error(
        requestId,
        error instanceof Error ? `${error.name}: ${error.message}` : "error",
      );
      return new Problem(500, "internal", "The function failed; its log says why.")
        .response(path, requestId);
    }
  };
}

async function answer(request: Request, settings: Settings): Promise<Response> {
  if (request.method !== "POST" && request.method !== "GET") {
    throw new Problem(405, "http", "Use POST, or GET to ask which model the function embeds with.");
  }
  requireCaller(request.headers, settings.callerSecrets);
  const database = new Database(settings);
  if (request.method === "GET") {
    return await describe(new URL(request.url).searchParams.get("collection"), database, settings);
  }
  const began = performance.now();
  const asked = await read(request, settings);
  const collection = await database.collection(asked.collection);
  const work = new Upsert(database, collection, embedderOf(collection.model, settings), began);
  await work.run(asked.rows);
  const body = work.report(asked.rows.length);
  const whole = body.skipped.length === 0 && body.failed.length === 0;
  return Response.json(body, { status: whole ? 200 : 207 });
}

/** Whether a backfill can begin: which collection, which model, and that it can be made here. */
async function describe(
  name: string | null,
  database: Database,
  settings: Settings,
): Promise<Response> {
  const collection = await database.collection(name);
  embedderOf(collection.model, settings);
  return Response.json({
    collection: collection.name,
    model: collection.model,
    max_rows: settings.maxRows,
    max_body_bytes: settings.maxBytes,
  });
}

class Upsert {
  private updated = 0;
  private readonly skipped = new Map<string, string>();
  private readonly failed = new Map<string, string>();

  constructor(
    private readonly database: Database,
    private readonly collection: Collection,
    private readonly embed: Embed,
    private readonly began: number,
  ) {}

  async run(rows: readonly Row[]): Promise<void> {
    const missing = await this.withoutWork(await this.once(rows));
    // By text and not by row: rows of one text share one vector, which is paid for once.
    const texts = [...new Set(missing.map((row) => row.text))];
    for (let start = 0; start < texts.length; start += BATCH) {
      const these = new Set(texts.slice(start, start + BATCH));
      const batch = missing.filter((row) => these.has(row.text));
      if (performance.now() - this.began > ENOUGH_MS) this.skip(batch, "time");
      else await this.embedAndStore(batch);
    }
    if (missing.length > 0 && this.failed.size === rows.length && this.rejection !== null) {
      throw new Problem(422, "InputRejectedError", this.rejection);
    }
  }

  private rejection: string | null = null;

  report(processed: number) {
    return {
      success: this.failed.size === 0,
      processed,
      updated: this.updated,
      skipped: [...this.skipped].map(([id, reason]) => ({ id, reason })),
      failed: [...this.failed].map(([id, error]) => ({ id, error })),
      dimensions: this.collection.model.dimensions,
      model: nameOf(this.collection.model),
      took_ms: Math.round(performance.now() - this.began),
    };
  }

  /** Each row once, with the hash that Postgres compares. */
  private async once(rows: readonly Row[]): Promise<Hashed[]> {
    const first = new Map<string, Row>();
    for (const row of rows) {
      const before = first.get(row.id);
      if (!isStorable(row.id)) this.skip([row], "gone");
      else if (!isStorable(row.text)) this.skip([row], "changed");
      else if (before === undefined) first.set(row.id, row);
      else if (before.text !== row.text) this.skip([row], "twice");
    }
    return await Promise.all(
      [...first.values()].map(async (row) => ({ ...row, hash: await sha256(row.text) })),
    );
  }

  /** Settle what costs nothing; returns the rows that have to be embedded. */
  private async withoutWork(given: Hashed[]): Promise<Prepared[]> {
    const found = await this.inspect(given);
    const rows = this.different(
      given.map((row) => ({ ...row, ...(found.get(row.id) ?? NOWHERE) })),
    );
    const those = (...wanted: Action[]) => rows.filter((row) => wanted.includes(row.action));
    this.skip(those("gone"), "gone");
    this.skip(those("changed"), "changed");
    const lost = await this.store(those("blank", "reuse").map((row) => ({ row, vector: null })));
    return [...those("embed"), ...lost];
  }

  /** Ids may be different ways to write one key, such as 7 and 007. */
  private different(rows: Prepared[]): Prepared[] {
    const first = new Map<string, Prepared>();
    for (const row of rows) {
      const key = row.action === "gone" ? `gone ${row.id}` : row.key;
      const before = first.get(key);
      if (before === undefined) first.set(key, row);
      else if (before.text !== row.text) this.skip([row], "twice");
    }
    return [...first.values()];
  }

  /** An id that is none of the key's type, such as a word where numbers are, is found by halving. */
  private async inspect(rows: Hashed[]): Promise<Map<string, Found>> {
    if (rows.length === 0) return new Map();
    const ids = rows.map((row) => row.id);
    try {
      return await this.database.inspect(this.collection, ids, rows.map((row) => row.hash));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (rows.length === 1) return new Map();
      const [left, right] = halves(rows);
      return new Map([...await this.inspect(left), ...await this.inspect(right)]);
    }
  }

  /** Embed and store a batch; a text that is rejected harms its own row alone. */
  private async embedAndStore(rows: Prepared[]): Promise<void> {
    const texts = [...new Set(rows.map((row) => row.text))];
    let vectors: Float32Array[];
    try {
      vectors = await this.embed(texts);
    } catch (error) {
      if (!(error instanceof Rejected)) throw error;
      if (texts.length === 1) {
        this.rejection = `The provider rejects the text: ${error.message}`;
        for (const row of rows) this.failed.set(row.id, this.rejection);
        return;
      }
      for (const half of halves(texts)) {
        await this.embedAndStore(rows.filter((row) => half.includes(row.text)));
      }
      return;
    }
    const made = new Map(texts.map((text, at) => [text, vectorText(vectors[at]!)]));
    await this.store(rows.map((row) => ({
      row: { ...row, action: "embed" },
      vector: made.get(row.text)!,
    })));
  }

  /** Store rows; returns those whose vector the cache does not have. */
  private async store(made: Made[]): Promise<Prepared[]> {
    if (made.length === 0) return [];
    let left: Map<string, string>;
    try {
      left = await this.database.complete(this.collection, made.map(newVector));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return await this.storeInHalves(made, error);
    }
    this.updated += made.length - left.size;
    const rest = made.map((each) => each.row).filter((row) => left.has(row.key));
    const lost = rest.filter((row) => left.get(row.key) === "lost");
    for (const row of rest) {
      if (!lost.includes(row)) this.skip([row], left.get(row.key)!);
    }
    return lost;
  }

  private async storeInHalves(made: Made[], error: Refused): Promise<Prepared[]> {
    if (made.length === 1) {
      this.failed.set(made[0]!.row.id, error.message);
      return [];
    }
    const [left, right] = halves(made);
    return [...await this.store(left), ...await this.store(right)];
  }

  private skip(rows: readonly Row[], reason: string): void {
    for (const row of rows) this.skipped.set(row.id, REASONS[reason]!);
  }
}

function newVector({ row, vector }: Made): NewVector {
  return { key: row.key, action: row.action, hash: row.hash, vector };
}

function halves<T>(list: readonly T[]): [T[], T[]] {
  const middle = Math.ceil(list.length / 2);
  return [list.slice(0, middle), list.slice(middle)];
}

/** Whether Postgres can hold a text: no NUL, no half of a surrogate pair. */
function isStorable(text: string): boolean {
  return !text.includes("\0") && text.isWellFormed();
}

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
