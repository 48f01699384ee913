// From a collection's model to what makes its vectors. The collection decides, never the request or
// the environment: a vector carries the name of the model that made it.
import type { Model } from "./database.ts";
import { Problem } from "./problems.ts";
import type { Settings } from "./settings.ts";

/** Unit vectors of texts, in order. Throws Rejected where the provider will not take one of them. */
export type Embed = (texts: string[]) => Promise<Float32Array[]>;

/** The provider will not take at least one of the texts. */
export class Rejected extends Error {}

// What Supabase's runtime has and Deno has not: https://supabase.com/docs/guides/functions/ai-models
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

const GTE_SMALL = 384;
const TIMEOUT_MS = 60_000;

export function embedderOf(model: Model, settings: Settings): Embed {
  if (model.provider === "supabase" && model.name === "gte-small") return gteSmall(model);
  if (model.provider === "openai") return openai(model, settings);
  throw new Problem(
    409,
    "ModelMismatchError",
    `The collection is declared for ${nameOf(model)}, which an Edge Function cannot run. It runs ` +
      "supabase/gte-small, and openai/… at OPENAI_BASE_URL. Backfill another way, or change the model.",
  );
}

export function nameOf(model: Model): string {
  return `${model.provider}/${model.name} (${model.dimensions} dimensions)`;
}

function gteSmall(model: Model): Embed {
  if (model.dimensions !== GTE_SMALL) throw wrongDimensions(model, GTE_SMALL);
  const session = new Supabase.ai.Session("gte-small");
  return async (texts) => {
    const vectors: Float32Array[] = [];
    for (const text of texts) {
      const vector = await session.run(text, { mean_pool: true, normalize: true });
      vectors.push(unit(Float32Array.from(vector), model));
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
    const answer = await ask(model, settings, texts);
    if (!answer.ok) throw await refusal(answer);
    const { data } = (await answer.json()) as { data: { index: number; embedding: unknown }[] };
    const vectors = new Array<Float32Array>(texts.length);
    for (const each of data) vectors[each.index] = unit(numbers(each.embedding), model);
    if (vectors.includes(undefined as never)) {
      throw unavailable(`It gave ${data.length} vectors for ${texts.length} texts.`);
    }
    return vectors;
  };
}

async function ask(model: Model, settings: Settings, texts: string[]): Promise<Response> {
  const wanted = model.name.startsWith("text-embedding-3-") ? { dimensions: model.dimensions } : {};
  try {
    return await fetch(`${settings.openaiUrl}/embeddings`, {
      method: "POST",
      signal: AbortSignal.timeout(TIMEOUT_MS),
      headers: {
        "content-type": "application/json",
        authorization: `Bearer ${settings.openaiKey ?? "no-key-needed"}`,
      },
      // Base64 is a quarter of the size of JSON numbers; servers that do not know it send numbers.
      body: JSON.stringify({
        model: model.name,
        input: texts,
        encoding_format: "base64",
        ...wanted,
      }),
    });
  } catch {
    throw unavailable("It does not answer.");
  }
}

async function refusal(answer: Response): Promise<Error> {
  const said = await words(answer);
  if (answer.status === 429 && !said.includes("insufficient_quota")) {
    const wait = Number(answer.headers.get("retry-after"));
    return new Problem(429, "RateLimitedError", `The provider says: ${said}`, wait > 0 ? wait : 1);
  }
  if (answer.status === 400 || answer.status === 413 || answer.status === 422) {
    return new Rejected(said);
  }
  if (answer.status >= 500 || answer.status === 408) return unavailable(said);
  return new Problem(
    502,
    "ProviderRefusedError",
    `The provider refuses (${answer.status}): ${said}`,
  );
}

/** The provider's own words, without anything that looks like a key. */
async function words(answer: Response): Promise<string> {
  const text = await answer.text();
  let said = text;
  try {
    const { error } = JSON.parse(text);
    said = [error?.message, error?.code].filter(Boolean).join(" ") || text;
  } catch { /* not JSON: its text says it */ }
  return said.replace(/\b(sk-|sb_)[\w*-]+/g, "$1…").slice(0, 500);
}

function unavailable(said: string): Problem {
  return new Problem(503, "ProviderUnavailableError", `The embedding provider failed: ${said}`, 1);
}

function wrongDimensions(model: Model, given: number): Problem {
  return new Problem(
    409,
    "DimensionMismatchError",
    `The collection is declared for ${model.dimensions} dimensions, the model gives ${given}.`,
  );
}

/** Little-endian float32 in base64, or a list of numbers. */
function numbers(embedding: unknown): Float32Array {
  if (Array.isArray(embedding)) return Float32Array.from(embedding);
  const bytes = Uint8Array.from(atob(String(embedding)), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** The vector at unit length, as every stored one is; computed in float64, as elsewhere. */
function unit(vector: Float32Array, model: Model): Float32Array {
  if (vector.length !== model.dimensions) throw wrongDimensions(model, vector.length);
  const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
  if (!Number.isFinite(length) || length === 0) throw unavailable("It gave a vector that is none.");
  return vector.map((x) => x / length);
}

/** A vector as Postgres reads one; nine digits are every float32. */
export function vectorText(vector: Float32Array): string {
  return `[${Array.from(vector, (x) => x.toPrecision(9)).join(",")}]`;
}
