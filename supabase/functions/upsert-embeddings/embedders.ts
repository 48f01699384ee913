// Selects the embedder for a collection's model. The collection determines it, not the request or the
// environment, because each vector is stored with the name of its model.
import type { Model } from "./database.ts";
import {
  type Marks,
  type ModelEntry,
  MODELS,
  OPEN_WEIGHTS,
  type Provider,
  PROVIDERS,
} from "./models.gen.ts";
import { Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";
import { bodyOf, rowsOf, urlOf } from "./wires.ts";

/** Returns unit vectors in the order of the texts. Throws RejectedTextError if one is rejected. */
export type Embed = (texts: string[]) => Promise<Float32Array[]>;

/** The provider rejects at least one of the texts. */
export class RejectedTextError extends Error {}

// A global of Supabase's runtime: https://supabase.com/docs/guides/functions/ai-models
declare const Supabase: {
  ai: {
    Session: new (model: "gte-small") => {
      run(
        text: string,
        options: { mean_pool: boolean; normalize: boolean },
      ): Promise<number[] | Float32Array>;
    };
  };
};

const GTE_SMALL_DIMENSIONS = 384;
const TIMEOUT_MS = 60_000;
// Members of an error's body that name it.
const CODES = ["code", "type", "status", "reason", "error_type"];

export function createEmbedder(model: Model, settings: Settings): Embed {
  if (model.provider === "supabase" && model.name === "gte-small") return gteSmall(model);
  const provider = PROVIDERS[model.provider];
  if (provider !== undefined) return served(model, provider, settings);
  throw new Problem(
    409,
    "ModelMismatchError",
    `The collection is declared for ${nameOf(model)}, which an Edge Function cannot run. It runs ` +
      "supabase/gte-small, and models of providers. Use another transport, or change the model.",
  );
}

export function nameOf(model: Model): string {
  return `${model.provider}/${model.name} (${model.dimensions} dimensions)`;
}

function gteSmall(model: Model): Embed {
  if (model.dimensions !== GTE_SMALL_DIMENSIONS) {
    throw wrongDimensions(model, GTE_SMALL_DIMENSIONS);
  }
  const session = new Supabase.ai.Session("gte-small");
  return async (texts) => {
    const vectors: Float32Array[] = [];
    for (const text of texts) {
      const vector = await session.run(text, { mean_pool: true, normalize: true });
      vectors.push(normalize(Float32Array.from(vector), model));
    }
    return vectors;
  };
}

/** A provider that the function reaches, with the model's marks. */
interface Server {
  readonly model: Model;
  readonly provider: Provider;
  readonly key: string | null;
  readonly url: string;
  readonly marks: Marks;
}

function served(model: Model, provider: Provider, settings: Settings): Embed {
  const entry = entryOf(model, provider);
  const marks = entry ?? provider.marks;
  if (marks.revision !== model.revision) throw otherMarks(model, marks);
  const { key, address } = settings.providers[model.provider]!;
  const base = address ?? provider.address;
  if (base === null) throw unset(provider, "address", provider.addresses[0]!);
  if (key === null && provider.keyRequired && (address ?? provider.address) === provider.address) {
    throw unset(provider, "key", provider.keys[0]!);
  }
  const url = urlOf(provider, base, model.name);
  const server: Server = { model, provider, key, url, marks };
  let dimensions = entry?.dimensions === model.dimensions ? null : model.dimensions;
  const call = async (texts: string[]) => {
    const response = await post(server, texts, dimensions);
    if (!response.ok) throw await errorOf(response, server);
    return vectorsOf(await read(response), server, texts.length);
  };
  return async (texts) => {
    try {
      return await call(texts);
    } catch (error) {
      const rejected = error instanceof RejectedTextError &&
        /dimension|matryoshka/i.test(error.message);
      if (!rejected || dimensions === null) throw error;
      // The server rejects the parameter, but its default may be the requested number.
      dimensions = null;
      return await call(texts);
    }
  };
}

/** Return the entry of a model. Self-hosted servers name open weights as they like. */
function entryOf(model: Model, provider: Provider): ModelEntry | undefined {
  const entry = MODELS[`${model.provider}/${model.name}`];
  if (entry !== undefined || !provider.selfHosted) return entry;
  const name = model.name.toLowerCase();
  return OPEN_WEIGHTS.find(({ names }) =>
    [name, name.split(":")[0]!].some((n) => names.includes(n))
  );
}

async function post(
  { model, provider, key, url, marks }: Server,
  texts: string[],
  dimensions: number | null,
): Promise<Response> {
  const authorization: Record<string, string> = key === null
    ? {}
    : provider.keyHeader === null
    ? { authorization: `Bearer ${key}` }
    : { [provider.keyHeader]: key };
  const call = {
    provider,
    model: model.name,
    texts: texts.map((text) => marks.prefix + text),
    dimensions,
    type: marks.type,
  };
  try {
    return await fetch(url, {
      method: "POST",
      redirect: "manual", // texts and the key go to the configured address only
      signal: AbortSignal.timeout(TIMEOUT_MS),
      headers: { "content-type": "application/json", ...authorization },
      body: JSON.stringify(bodyOf(call)),
    });
  } catch {
    throw unavailable("It does not respond.");
  }
}

async function read(response: Response): Promise<unknown> {
  try {
    return await response.json();
  } catch {
    throw unavailable("It returned something other than embeddings.");
  }
}

function vectorsOf(body: unknown, { model, provider }: Server, texts: number): Float32Array[] {
  let rows: unknown[];
  try {
    rows = rowsOf(provider, body, texts);
  } catch {
    rows = [];
  }
  if (rows.length !== texts || rows.includes(undefined)) {
    throw unavailable(`It returned no embeddings, or another number than ${texts}.`);
  }
  return rows.map((row) => normalize(decode(row), model));
}

function otherMarks(model: Model, marks: Marks): Problem {
  return new Problem(
    409,
    "ModelMismatchError",
    `The passages of ${
      nameOf(model)
    } have revision ${model.revision}; this function marks them as ` +
      `${marks.revision}. Deploy the function of the Backline that declared the collection, or use ` +
      "another transport if the model is one of your own backline.toml.",
  );
}

function unset(provider: Provider, what: string, variable: string): Problem {
  return new Problem(
    502,
    "ProviderRefusedError",
    `${provider.title} needs ${
      what === "key" ? "a key" : "an address"
    }. Run: supabase secrets set ` +
      `${variable}=…`,
  );
}

async function errorOf(response: Response, server: Server): Promise<Error> {
  if (response.status >= 300 && response.status < 400) return await redirected(response, server);
  const { message, codes } = await wordsOf(response, server);
  const status = meaning(server.provider, codes, message) ?? response.status;
  const seconds = Number(response.headers.get("retry-after"));
  if (status === 429 || ((status === 503 || status === 529) && seconds > 0)) {
    return new Problem(
      429,
      "RateLimitedError",
      `The provider says: ${message}`,
      seconds > 0 ? seconds : 1,
    );
  }
  if (status === 400 || status === 413 || status === 422) return new RejectedTextError(message);
  if (status >= 500 || [408, 409, 424, 425, 499].includes(status)) return unavailable(message);
  return new Problem(
    502,
    "ProviderRefusedError",
    `The provider refuses (${response.status}): ${message}`,
  );
}

/** Return the status that the provider's own code or words stand for. */
function meaning(provider: Provider, codes: Set<string>, message: string): number | undefined {
  return Object.entries(provider.means).find(([name]) =>
    codes.has(name) || (name.includes(" ") && message.includes(name))
  )?.[1];
}

async function redirected(response: Response, { provider }: Server): Promise<Problem> {
  await response.body?.cancel();
  const location = (response.headers.get("location") ?? "").replace(/[?#].*/, "").slice(0, 500);
  return new Problem(
    502,
    "ProviderRefusedError",
    `The provider redirects (${response.status}) to ${location}. Texts are not sent there. ` +
      `If that address is right, run: supabase secrets set ${provider.addresses[0]}=…, without ` +
      `${provider.path || "a path"}.`,
  );
}

interface Words {
  readonly message: string;
  readonly codes: Set<string>;
}

/** Return the provider's message, without the key, and the codes that name the error. */
async function wordsOf(response: Response, { key }: Server): Promise<Words> {
  const text = await response.text();
  let message = text;
  const codes = new Set<string>();
  try {
    let words: unknown = JSON.parse(text, (name, value) => {
      if (CODES.includes(name) && typeof value === "string") codes.add(value);
      return value;
    });
    while (typeof words === "object" && words !== null && !Array.isArray(words)) {
      const { error, message, detail } = words as Record<string, unknown>;
      words = error || message || detail || "";
    }
    message = (typeof words === "string" ? words : JSON.stringify(words)) || text;
  } catch { /* not JSON: the text is the message */ }
  if (key !== null) message = message.replaceAll(key, "[key]");
  return { message: message.replace(/\b(sk-|sb_)[\w*-]+/g, "$1…").slice(0, 500), codes };
}

function unavailable(message: string): Problem {
  return new Problem(
    503,
    "ProviderUnavailableError",
    `The embedding provider failed: ${message}`,
    1,
  );
}

function wrongDimensions(model: Model, actual: number): Problem {
  return new Problem(
    409,
    "DimensionMismatchError",
    `The collection is declared for ${model.dimensions} dimensions, the model gives ${actual}.`,
  );
}

/** Decode base64 of little-endian float32, or a list of numbers. */
function decode(embedding: unknown): Float32Array {
  if (embedding === null) {
    throw new RejectedTextError("The provider returned no vector for a text.");
  }
  if (Array.isArray(embedding)) return Float32Array.from(embedding);
  const bytes = Uint8Array.from(atob(String(embedding)), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Scale a vector to unit length, with the length computed in float64 as by every other writer. */
function normalize(vector: Float32Array, model: Model): Float32Array {
  if (vector.length !== model.dimensions) throw wrongDimensions(model, vector.length);
  const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
  if (!Number.isFinite(length) || length === 0) {
    throw new RejectedTextError("The provider returned a vector that is not finite, or all zeros.");
  }
  return vector.map((x) => x / length);
}

/** Format a vector for Postgres. Nine digits represent every float32 exactly. */
export function vectorText(vector: Float32Array): string {
  return `[${Array.from(vector, (x) => x.toPrecision(9)).join(",")}]`;
}
