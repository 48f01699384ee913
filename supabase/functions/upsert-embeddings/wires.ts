// The forms of requests and responses of embeddings servers, as backline/embedders/http/wires.py has
// them. The function sends passages only.
import type { Provider } from "./models.gen.ts";

export interface Call {
  readonly provider: Provider;
  readonly model: string;
  readonly texts: readonly string[];
  /** Requested dimensions, or null for the model's default. */
  readonly dimensions: number | null;
  /** What the server calls a passage, or null. */
  readonly type: string | null;
}

/** A vector of a response: base64 of float32, or a list of numbers. */
export type Row = unknown;

interface Wire {
  body(call: Call): Record<string, unknown>;
  /** Return the vectors in the order of the texts. */
  rows(response: unknown, texts: number): Row[];
  suffix?(model: string): string;
}

// deno-lint-ignore no-explicit-any
type Fields = any;

function given(members: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== null));
}

const WIRES: Record<Provider["wire"], Wire> = {
  openai: {
    body({ provider: { fields }, model, texts, dimensions, type }) {
      const optional: [string | null, unknown][] = [
        // Base64 takes a quarter of the bytes of JSON numbers. Servers that ignore it send numbers.
        [fields.encoding, "base64"],
        [fields.dimensions, dimensions],
        [fields.type, type],
      ];
      const members = optional.filter(([name, value]) => name !== null && value !== null);
      return { model, input: texts, ...Object.fromEntries(members) };
    },
    rows(response: Fields, texts) {
      const rows = new Array<Row>(texts);
      for (const { index, embedding } of response.data) rows[index] = embedding;
      return response.data.length === texts ? rows : [];
    },
  },
  cohere: {
    body: ({ model, texts, dimensions, type }) => ({
      model,
      texts,
      embedding_types: ["float"],
      truncate: "NONE",
      ...given({ input_type: type, output_dimension: dimensions }),
    }),
    rows: (response: Fields) => response.embeddings.float,
  },
  gemini: {
    body: ({ model, texts, dimensions, type }) => ({
      requests: texts.map((text) => ({
        model: `models/${model}`,
        content: { parts: [{ text }] },
        ...given({ taskType: type, outputDimensionality: dimensions }),
      })),
    }),
    rows: (response: Fields) => response.embeddings.map((each: Fields) => each.values),
    suffix: (model) => `/models/${encodeURIComponent(model)}:batchEmbedContents`,
  },
  ollama: {
    body: ({ model, texts, dimensions }) => ({
      model,
      input: texts,
      truncate: false,
      ...given({ dimensions }),
    }),
    rows: (response: Fields) => response.embeddings,
  },
  tei: {
    body: ({ texts, dimensions }) => ({
      inputs: texts,
      truncate: false,
      normalize: true,
      ...given({ dimensions }),
    }),
    rows: (response: Fields) => response,
  },
};

/** Return the body of a request. */
export function bodyOf(call: Call): Record<string, unknown> {
  return { ...WIRES[call.provider.wire].body(call), ...call.provider.body };
}

/** Return the vectors of a response, or none if it has another number of them. */
export function rowsOf(provider: Provider, response: unknown, texts: number): Row[] {
  const rows = WIRES[provider.wire].rows(response, texts);
  return Array.isArray(rows) && rows.length === texts ? rows : [];
}

/** Return where requests go. The address may already end with the beginning of the path. */
export function urlOf(provider: Provider, address: string, model: string): string {
  const parts = provider.path.split("/");
  let path = provider.path;
  for (let n = parts.length; n > 1; n--) {
    if (address.endsWith(parts.slice(0, n).join("/"))) {
      path = ["", ...parts.slice(n)].join("/");
      break;
    }
  }
  return `${address}${path}${WIRES[provider.wire].suffix?.(model) ?? ""}`;
}
