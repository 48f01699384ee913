// The store's functions over PostgREST: the same ones that every other worker of Backline calls.
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

/** A row to store; `vector` is null for a row that is blank or whose vector is in the cache. */
export interface NewVector {
  readonly key: string;
  readonly action: Action;
  readonly hash: string;
  readonly vector: string | null;
}

/** What a row that was brought needs, and its key as the table writes it: "7" for "007". */
export interface Found {
  readonly action: Action;
  readonly key: string;
}

/** Postgres would not store a row: a constraint or a trigger of the table forbids it. */
export class Refused extends Error {}

const PAUSES = [100, 400, 1000];
// No worker has this number: the rows of a request are nobody's jobs.
const NOBODY = 0;

export class Database {
  constructor(private readonly settings: Settings) {}

  /** The collection of that name, or the only one, or music_knowledge. */
  async collection(name: string | null): Promise<Collection> {
    const rows = (await this.call("collections", {})) as Record<string, unknown>[];
    const wanted = rows.filter((row) =>
      name === null
        ? rows.length === 1 || row.name === "music_knowledge"
        : name === row.name || name === `${row.table_schema}.${row.table_name}`
    );
    const [row] = wanted;
    if (row === undefined) {
      const names = rows.map((each) => each.name).join(", ") || "none yet";
      throw new Problem(
        404,
        "CollectionNotFoundError",
        name === null
          ? `Say which collection: ${names}.`
          : `There is no collection ${JSON.stringify(name)}; declared: ${names}.`,
      );
    }
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

  /** What each row needs, before anything is spent on it. */
  async inspect(
    collection: Collection,
    keys: string[],
    hashes: string[],
  ): Promise<Map<string, Found>> {
    const answer = await this.call("inspect", {
      collection: collection.id,
      keys,
      hashes: hashes.map(bytea),
    });
    return new Map(
      (answer as [string, Action, string | null][]).map((
        [id, action, key],
      ) => [id, { action, key: key ?? id }]),
    );
  }

  /** Store rows whose text is unchanged; returns the others, with why they were not written. */
  async complete(collection: Collection, rows: NewVector[]): Promise<Map<string, string>> {
    const answer = await this.call("complete", {
      call: crypto.randomUUID(),
      collection: collection.id,
      worker: NOBODY,
      run: null,
      cache: true,
      model: collection.modelId,
      keys: rows.map((row) => row.key),
      actions: rows.map((row) => row.action),
      hashes: rows.map((row) => bytea(row.hash)),
      vectors: rows.map((row) => row.vector),
    });
    return new Map(answer as [string, string][]);
  }

  /** One call; where no answer comes it is made again, which counts and changes nothing twice. */
  private async call(name: string, values: Record<string, unknown>): Promise<unknown> {
    const body = JSON.stringify(
      Object.fromEntries(Object.entries(values).map(([key, value]) => [`p_${key}`, value])),
    );
    for (const pause of [...PAUSES, null]) {
      const answer = await this.post(name, body);
      if (answer?.ok) return await answer.json();
      const temporary = answer === null || isTemporary(answer.status, await codeOf(answer));
      if (!temporary || pause === null) throw await refusal(answer);
      await new Promise((done) => setTimeout(done, pause));
    }
  }

  private async post(name: string, body: string): Promise<Response | null> {
    const key = this.settings.secretKey;
    const headers = new Headers({ "content-type": "application/json", apikey: key });
    if (!key.startsWith("sb_")) headers.set("authorization", `Bearer ${key}`);
    try {
      const url = `${this.settings.projectUrl}/rest/v1/rpc/backline_${name}`;
      return await fetch(url, { method: "POST", headers, body });
    } catch {
      return null;
    }
  }
}

/** Whether nobody knows if the call was carried out; what Postgres itself says is no such case. */
function isTemporary(status: number, code: string): boolean {
  return !/^[0-9A-Z]{5}$/.test(code) && (status === 429 || status >= 500) && status !== 540;
}

async function codeOf(answer: Response): Promise<string> {
  return String((await bodyOf(answer)).code ?? "");
}

async function bodyOf(answer: Response): Promise<Record<string, unknown>> {
  try {
    return await answer.clone().json();
  } catch {
    return {};
  }
}

async function refusal(answer: Response | null): Promise<Error> {
  if (answer === null) {
    return new Problem(503, "DatabaseUnavailableError", "PostgREST does not answer.", 1);
  }
  const body = await bodyOf(answer);
  const code = String(body.code ?? answer.status);
  const said = String(body.message ?? answer.statusText).slice(0, 300);
  if (/^(22|23)...$|^P0001$/.test(code)) {
    return new Refused(`Postgres refuses the row: ${said} [${code}].`);
  }
  if (code === "PGRST202") {
    return new Problem(
      503,
      "NotMigratedError",
      "This project has no Backline functions, or those of another version. Run: supabase db push.",
    );
  }
  if (code === "BL005") return new Problem(409, "ModelMismatchError", said);
  if (code === "42501") {
    return new Problem(
      409,
      "PermissionDeniedError",
      `${said} [${code}]. Grant service_role what is missing.`,
    );
  }
  const status = code === "57014" ? 504 : answer.status === 401 ? 500 : 503;
  return new Problem(status, "DatabaseError", `PostgREST says: ${said} [${code}].`, 1);
}

function bytea(hash: string): string {
  return `\\x${hash}`;
}
