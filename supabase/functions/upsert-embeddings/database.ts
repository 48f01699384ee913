// Calls the store's functions over PostgREST, as every Backline worker without SQL access does.
import { Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";

export interface Model {
  readonly provider: string;
  readonly name: string;
  readonly revision: string;
  readonly dimensions: number;
}

export interface Collection {
  readonly id: number;
  readonly name: string;
  readonly modelId: number;
  readonly model: Model;
}

export type Action = "embed" | "reuse" | "blank" | "up_to_date" | "changed" | "gone";

/** A row to store. `vector` is null if the row is blank or its vector is in the cache. */
export interface NewVector {
  readonly key: string;
  readonly action: Action;
  readonly hash: string;
  readonly vector: string | null;
}

/** What a row needs, and its key as the table writes it: "7" for "007". */
export interface RowState {
  readonly action: Action;
  readonly key: string;
}

/** Postgres refuses a row because of a constraint or a trigger of the table. */
export class RowRefusedError extends Error {}

const RETRY_PAUSES_MS = [100, 400, 1000];
// No registered worker: the rows of a request belong to no job lease.
const NO_WORKER = 0;

export class Database {
  constructor(private readonly settings: Settings) {}

  /** Return the collection of that name or, if it has only one, of that table. Without a name, return
   * the only one. The other target of a change of the model is found by its name alone. */
  async collection(name: string | null): Promise<Collection> {
    const rows = (await this.call("collections", {})) as Record<string, unknown>[];
    const serving = rows.filter((each) => each.role === "serving");
    const named = name === null ? serving : rows.filter((each) => name === each.name);
    const matching = named.length > 0
      ? named
      : serving.filter((each) => name === `${each.table_schema}.${each.table_name}`);
    const [row, second] = matching;
    if (row === undefined) throw notFound(name, serving.map((each) => each.name));
    if (second !== undefined) throw ambiguous(matching.map((each) => each.name));
    if (row.passages) throw splitsTexts(row.name as string);
    return {
      id: row.id as number,
      name: row.name as string,
      modelId: row.model_id as number,
      model: {
        provider: row.provider as string,
        name: row.model as string,
        revision: row.revision as string,
        dimensions: row.dimensions as number,
      },
    };
  }

  /** Return by id what each row needs. */
  async inspect(
    collection: Collection,
    ids: string[],
    hashes: string[],
  ): Promise<Map<string, RowState>> {
    const states = await this.call("inspect", {
      collection: collection.id,
      keys: ids,
      hashes: hashes.map(bytea),
    });
    return new Map(
      (states as [string, Action, string | null][]).map((
        [id, action, key],
      ) => [id, { action, key: key ?? id }]),
    );
  }

  /** Store rows with unchanged text. Returns by key why the others were not written. */
  async complete(collection: Collection, rows: NewVector[]): Promise<Map<string, string>> {
    const unwritten = await this.call("complete", {
      call: crypto.randomUUID(),
      collection: collection.id,
      worker: NO_WORKER,
      run: null,
      cache: true,
      model: collection.modelId,
      keys: rows.map((row) => row.key),
      actions: rows.map((row) => row.action),
      hashes: rows.map((row) => bytea(row.hash)),
      vectors: rows.map((row) => row.vector),
    });
    return new Map(unwritten as [string, string][]);
  }

  /** Call a function, and repeat the call if its response is lost. Repeated calls change nothing. */
  private async call(name: string, values: Record<string, unknown>): Promise<unknown> {
    const body = JSON.stringify(
      Object.fromEntries(Object.entries(values).map(([key, value]) => [`p_${key}`, value])),
    );
    for (const pause of [...RETRY_PAUSES_MS, null]) {
      const response = await this.post(name, body);
      if (response?.ok) return await response.json();
      const temporary = response === null || isTemporary(response.status, await codeOf(response));
      if (!temporary || pause === null) throw await errorOf(response);
      await new Promise((done) => setTimeout(done, pause));
    }
  }

  /** Send one request. Returns null if no response arrives. */
  private async post(name: string, body: string): Promise<Response | null> {
    const key = this.settings.secretKey;
    const headers = new Headers({ "content-type": "application/json", apikey: key });
    if (!key.startsWith("sb_")) headers.set("authorization", `Bearer ${key}`);
    try {
      const url = `${this.settings.projectUrl}/rest/v1/rpc/backline_${name}`;
      // Keys and vectors go to the project's own address only.
      return await fetch(url, { method: "POST", redirect: "manual", headers, body });
    } catch {
      return null;
    }
  }
}

function notFound(name: string | null, names: unknown[]): Problem {
  const declared = names.join(", ") || "none yet";
  return new Problem(
    404,
    "CollectionNotFoundError",
    name === null
      ? "No collection is declared yet. Declare one: backline add TABLE --text '{column} …'."
      : `There is no collection ${JSON.stringify(name)}; declared: ${declared}.`,
  );
}

function ambiguous(names: unknown[]): Problem {
  return new Problem(
    404,
    "CollectionNotFoundError",
    `Say which collection, as \`collection\` of the request: ${names.join(", ")}.`,
  );
}

function splitsTexts(name: string): Problem {
  return new Problem(
    422,
    "UsageError",
    `The texts of ${name} are split into passages, which this function does not do. ` +
      "Embed them with a worker: backline backfill, or backline sync.",
  );
}

/** Return whether the call may or may not have been executed. A SQLSTATE proves that it failed. */
function isTemporary(status: number, code: string): boolean {
  return !/^[0-9A-Z]{5}$/.test(code) && (status === 429 || status >= 500) && status !== 540;
}

async function codeOf(response: Response): Promise<string> {
  return String((await bodyOf(response)).code ?? "");
}

async function bodyOf(response: Response): Promise<Record<string, unknown>> {
  try {
    return await response.clone().json();
  } catch {
    return {};
  }
}

async function errorOf(response: Response | null): Promise<Error> {
  if (response === null) {
    return new Problem(503, "DatabaseUnavailableError", "PostgREST does not respond.", 1);
  }
  if (response.status >= 300 && response.status < 400) return await redirected(response);
  const body = await bodyOf(response);
  const code = String(body.code ?? response.status);
  const message = String(body.message ?? response.statusText).slice(0, 300);
  if (/^(22|23)...$|^P0001$/.test(code)) {
    return new RowRefusedError(`Postgres refuses the row: ${message} [${code}].`);
  }
  if (code === "PGRST202") {
    return new Problem(
      503,
      "NotMigratedError",
      "This project has no Backline functions, or those of another version. Run: supabase db push.",
    );
  }
  if (code === "BL005") return new Problem(409, "ModelMismatchError", message);
  if (code === "42501") {
    return new Problem(
      409,
      "PermissionDeniedError",
      `${message} [${code}]. Grant service_role what is missing.`,
    );
  }
  const status = code === "57014" ? 504 : response.status === 401 ? 500 : 503;
  return new Problem(status, "DatabaseError", `PostgREST says: ${message} [${code}].`, 1);
}

async function redirected(response: Response): Promise<Problem> {
  await response.body?.cancel();
  const location = (response.headers.get("location") ?? "").replace(/[?#].*/, "").slice(0, 500);
  return new Problem(
    503,
    "DatabaseError",
    `The project redirects (${response.status}) to ${location}. Keys and vectors are not sent there. ` +
      "Correct SUPABASE_URL, the address of the project.",
  );
}

function bytea(hash: string): string {
  return `\\x${hash}`;
}
