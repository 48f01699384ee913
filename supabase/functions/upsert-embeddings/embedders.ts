// Selects the embedder for a collection's model. The collection determines it, not the request or the
// environment, because each vector is stored with the name of its model.
import type { Model } from "./database.ts";
import { Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";

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

export function createEmbedder(model: Model, settings: Settings): Embed {
  if (model.provider === "supabase" && model.name === "gte-small") return gteSmall(model);
  if (model.provider === "openai") return openai(model, settings);
  throw new Problem(
    409,
    "ModelMismatchError",
    `The collection is declared for ${nameOf(model)}, which an Edge Function cannot run. It runs ` +
      "supabase/gte-small, and openai/… at OPENAI_BASE_URL. Use another transport, or change the model.",
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

function openai(model: Model, settings: Settings): Embed {
  if (settings.openaiKey === null && settings.openaiUrl.includes("api.openai.com")) {
    throw new Problem(
      502,
      "ProviderRefusedError",
      "OpenAI needs a key. Run: supabase secrets set OPENAI_API_KEY=…, or OPENAI_BASE_URL=… for another server.",
    );
  }
  return async (texts) => {
    const response = await post(model, settings, texts);
    if (!response.ok) throw await errorOf(response);
    const { data } = (await response.json()) as { data: { index: number; embedding: unknown }[] };
    const vectors = new Array<Float32Array>(texts.length);
    for (const { index, embedding } of data) vectors[index] = normalize(decode(embedding), model);
    if (vectors.includes(undefined as never)) {
      throw unavailable(`It returned ${data.length} vectors for ${texts.length} texts.`);
    }
    return vectors;
  };
}

async function post(model: Model, settings: Settings, texts: string[]): Promise<Response> {
  const shortened = model.name.startsWith("text-embedding-3-")
    ? { dimensions: model.dimensions }
    : {};
  try {
    return await fetch(`${settings.openaiUrl}/embeddings`, {
      method: "POST",
      redirect: "manual", // texts and the key go to the configured address only
      signal: AbortSignal.timeout(TIMEOUT_MS),
      headers: {
        "content-type": "application/json",
        authorization: `Bearer ${settings.openaiKey ?? "no-key-needed"}`,
      },
      // Base64 takes a quarter of the bytes of JSON numbers. Servers that ignore it send numbers.
      body: JSON.stringify({
        model: model.name,
        input: texts,
        encoding_format: "base64",
        ...shortened,
      }),
    });
  } catch {
    throw unavailable("It does not respond.");
  }
}

async function errorOf(response: Response): Promise<Error> {
  if (response.status >= 300 && response.status < 400) return await redirected(response);
  const message = await messageOf(response);
  if (response.status === 429 && !message.includes("insufficient_quota")) {
    const seconds = Number(response.headers.get("retry-after"));
    return new Problem(
      429,
      "RateLimitedError",
      `The provider says: ${message}`,
      seconds > 0 ? seconds : 1,
    );
  }
  if (response.status === 400 || response.status === 413 || response.status === 422) {
    return new RejectedTextError(message);
  }
  if (response.status >= 500 || response.status === 408) return unavailable(message);
  return new Problem(
    502,
    "ProviderRefusedError",
    `The provider refuses (${response.status}): ${message}`,
  );
}

async function redirected(response: Response): Promise<Problem> {
  await response.body?.cancel();
  const location = (response.headers.get("location") ?? "").replace(/[?#].*/, "").slice(0, 500);
  return new Problem(
    502,
    "ProviderRefusedError",
    `The provider redirects (${response.status}) to ${location}. Texts are not sent there. ` +
      "If that address is right, run: supabase secrets set OPENAI_BASE_URL=…, without /embeddings.",
  );
}

/** Return the provider's message, without anything that looks like a key. */
async function messageOf(response: Response): Promise<string> {
  const text = await response.text();
  let message = text;
  try {
    const { error } = JSON.parse(text);
    message = [error?.message, error?.code].filter(Boolean).join(" ") || text;
  } catch { /* not JSON: the text is the message */ }
  return message.replace(/\b(sk-|sb_)[\w*-]+/g, "$1…").slice(0, 500);
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
  if (Array.isArray(embedding)) return Float32Array.from(embedding);
  const bytes = Uint8Array.from(atob(String(embedding)), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** Scale a vector to unit length, with the length computed in float64 as by every other writer. */
function normalize(vector: Float32Array, model: Model): Float32Array {
  if (vector.length !== model.dimensions) throw wrongDimensions(model, vector.length);
  const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
  if (!Number.isFinite(length) || length === 0) {
    throw unavailable("It returned a vector without a direction.");
  }
  return vector.map((x) => x / length);
}

/** Format a vector for Postgres. Nine digits represent every float32 exactly. */
export function vectorText(vector: Float32Array): string {
  return `[${Array.from(vector, (x) => x.toPrecision(9)).join(",")}]`;
}
