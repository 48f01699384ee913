// Embeds and stores the rows of one request.
import {
  type Action,
  type Collection,
  type Database,
  type NewVector,
  RowRefusedError,
  type RowState,
} from "./database.ts";
import { type Embed, nameOf, RejectedTextError, vectorText } from "./embedders.ts";
import { type Outcome, OUTCOMES } from "./outcomes.gen.ts";
import { Problem } from "./problems.ts";
import type { Row } from "./request.ts";

// The platform ends a request after 150 s. Rows not embedded by then are left for the next request.
const TIME_LIMIT_MS = 100_000;
// Texts in one call of the embedder.
const BATCH_SIZE = 50;

interface HashedRow extends Row {
  readonly hash: string;
}

interface InspectedRow extends HashedRow, RowState {}

interface Write {
  readonly row: InspectedRow;
  readonly vector: string | null;
}

interface Report {
  readonly collection: string;
  readonly success: boolean;
  readonly processed: number;
  readonly updated: number;
  readonly skipped: { id: string; reason: string }[];
  readonly failed: { id: string; error: string }[];
  readonly dimensions: number;
  readonly model: string;
  readonly took_ms: number;
}

const GONE: RowState = { action: "gone", key: "" };

export class Upsert {
  private updated = 0;
  private rejection: string | null = null;
  private readonly skipped = new Map<string, string>();
  private readonly failed = new Map<string, string>();

  constructor(
    private readonly database: Database,
    private readonly collection: Collection,
    private readonly embed: Embed,
    private readonly began: number,
  ) {}

  /** Store all rows that can be stored, and report the outcome of each. */
  async run(rows: readonly Row[]): Promise<Report> {
    const pending = await this.storeWithoutEmbedding(await this.uniqueIds(rows));
    // Batches are cut by text: rows of one text share one vector, which is paid for once.
    const texts = [...new Set(pending.map((row) => row.text))];
    for (let start = 0; start < texts.length; start += BATCH_SIZE) {
      const selected = new Set(texts.slice(start, start + BATCH_SIZE));
      const batch = pending.filter((row) => selected.has(row.text));
      if (performance.now() - this.began > TIME_LIMIT_MS) this.skip(batch, "time");
      else await this.embedAndStore(batch);
    }
    if (pending.length > 0 && this.failed.size === rows.length && this.rejection !== null) {
      throw new Problem(422, "InputRejectedError", this.rejection);
    }
    return this.report(rows.length);
  }

  private report(processed: number): Report {
    return {
      collection: this.collection.name,
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

  /** Return each id once, with the hash of its text. */
  private async uniqueIds(rows: readonly Row[]): Promise<HashedRow[]> {
    const unique = new Map<string, Row>();
    for (const row of rows) {
      const previous = unique.get(row.id);
      if (!isStorable(row.id)) this.skip([row], "gone");
      else if (!isStorable(row.text)) this.skip([row], "changed");
      else if (previous === undefined) unique.set(row.id, row);
      else if (previous.text !== row.text) this.skip([row], "twice");
    }
    return await Promise.all(
      [...unique.values()].map(async (row) => ({ ...row, hash: await sha256(row.text) })),
    );
  }

  /** Store blank rows and rows with a cached vector. Returns the rows to embed. */
  private async storeWithoutEmbedding(hashed: HashedRow[]): Promise<InspectedRow[]> {
    const states = await this.inspect(hashed);
    const rows = this.uniqueKeys(
      hashed.map((row) => ({ ...row, ...(states.get(row.id) ?? GONE) })),
    );
    const having = (...actions: Action[]) => rows.filter((row) => actions.includes(row.action));
    this.skip(having("gone"), "gone");
    this.skip(having("changed"), "changed");
    const lost = await this.store(having("blank", "reuse").map((row) => ({ row, vector: null })));
    return [...having("embed"), ...lost];
  }

  /** Return each key once: different ids may name one row, such as 7 and 007. */
  private uniqueKeys(rows: InspectedRow[]): InspectedRow[] {
    const unique = new Map<string, InspectedRow>();
    for (const row of rows) {
      const key = row.action === "gone" ? `gone ${row.id}` : row.key;
      const previous = unique.get(key);
      if (previous === undefined) unique.set(key, row);
      else if (previous.text !== row.text) this.skip([row], "twice");
    }
    return [...unique.values()];
  }

  /** Inspect rows, halving them to find ids that are not values of the key's type. */
  private async inspect(rows: HashedRow[]): Promise<Map<string, RowState>> {
    if (rows.length === 0) return new Map();
    const ids = rows.map((row) => row.id);
    try {
      return await this.database.inspect(this.collection, ids, rows.map((row) => row.hash));
    } catch (error) {
      if (!(error instanceof RowRefusedError)) throw error;
      if (rows.length === 1) return new Map();
      const [left, right] = halves(rows);
      return new Map([...await this.inspect(left), ...await this.inspect(right)]);
    }
  }

  /** Embed and store a batch. A rejected batch is halved, so that a rejected text fails alone. */
  private async embedAndStore(rows: InspectedRow[]): Promise<void> {
    const texts = [...new Set(rows.map((row) => row.text))];
    let vectors: Float32Array[];
    try {
      vectors = await this.embed(texts);
    } catch (error) {
      if (!(error instanceof RejectedTextError)) throw error;
      if (texts.length === 1) return this.reject(rows, error);
      for (const half of halves(texts)) {
        await this.embedAndStore(rows.filter((row) => half.includes(row.text)));
      }
      return;
    }
    const byText = new Map(texts.map((text, index) => [text, vectorText(vectors[index]!)]));
    await this.store(rows.map((row) => ({
      row: { ...row, action: "embed" },
      vector: byText.get(row.text)!,
    })));
  }

  private reject(rows: InspectedRow[], error: RejectedTextError): void {
    this.rejection = `The provider rejects the text: ${error.message}`;
    for (const row of rows) this.failed.set(row.id, this.rejection);
  }

  /** Store rows. Returns those that lost their cached vector. */
  private async store(writes: Write[]): Promise<InspectedRow[]> {
    if (writes.length === 0) return [];
    let unwritten: Map<string, string>;
    try {
      unwritten = await this.database.complete(this.collection, writes.map(newVector));
    } catch (error) {
      if (!(error instanceof RowRefusedError)) throw error;
      return await this.storeInHalves(writes, error);
    }
    this.updated += writes.length - unwritten.size;
    const rest = writes.map(({ row }) => row).filter((row) => unwritten.has(row.key));
    const lost = rest.filter((row) => unwritten.get(row.key) === "lost");
    for (const row of rest) {
      if (!lost.includes(row)) this.skip([row], unwritten.get(row.key) as Outcome);
    }
    return lost;
  }

  private async storeInHalves(writes: Write[], error: RowRefusedError): Promise<InspectedRow[]> {
    if (writes.length === 1) {
      this.failed.set(writes[0]!.row.id, error.message);
      return [];
    }
    const [left, right] = halves(writes);
    return [...await this.store(left), ...await this.store(right)];
  }

  private skip(rows: readonly Row[], outcome: Outcome): void {
    for (const row of rows) this.skipped.set(row.id, OUTCOMES[outcome]);
  }
}

function newVector({ row, vector }: Write): NewVector {
  return { key: row.key, action: row.action, hash: row.hash, vector };
}

function halves<T>(list: readonly T[]): [T[], T[]] {
  const middle = Math.ceil(list.length / 2);
  return [list.slice(0, middle), list.slice(middle)];
}

/** Return whether Postgres can store a text: without NUL and lone surrogates. */
function isStorable(text: string): boolean {
  return !text.includes("\0") && text.isWellFormed();
}

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
