// Unit tests without services; tests/supabase/test_edge.py tests the running function.
import { deepStrictEqual as equal, rejects, throws } from "node:assert/strict";
import { requireCaller } from "../upsert-embeddings/callers.ts";
import { Database } from "../upsert-embeddings/database.ts";
import { createEmbedder, RejectedTextError, vectorText } from "../upsert-embeddings/embedders.ts";
import { Problem } from "../upsert-embeddings/problems.ts";
import { readRequest } from "../upsert-embeddings/request.ts";
import { readSettings, type Settings } from "../upsert-embeddings/settings.ts";

function settings(variables: Record<string, string> = {}): Settings {
  return readSettings({ get: (name) => variables[name] });
}

function hasStatus(status: number) {
  return (error: unknown) => error instanceof Problem && error.status === status;
}

Deno.test("a secret authorizes in every header", () => {
  const secrets = ["function-secret", "sb_secret_1"];
  for (const name of ["x-api-key", "apikey"]) {
    requireCaller(new Headers({ [name]: "sb_secret_1" }), secrets);
  }
  requireCaller(new Headers({ authorization: "Bearer function-secret" }), secrets);
  requireCaller(
    new Headers({ apikey: "sb_publishable_1", "x-api-key": "function-secret" }),
    secrets,
  );
});

Deno.test("other keys are refused", () => {
  const secrets = ["function-secret"];
  for (const key of ["", "function-secre", "function-secret2", "sb_publishable_1"]) {
    throws(() => requireCaller(new Headers({ apikey: key }), secrets), hasStatus(401));
  }
  throws(
    () => requireCaller(new Headers({ authorization: "function-secret" }), secrets),
    hasStatus(401),
  );
  throws(() => requireCaller(new Headers(), secrets), hasStatus(401));
  throws(() => requireCaller(new Headers({ apikey: "" }), []), hasStatus(500));
});

Deno.test("settings of new and legacy projects are read", () => {
  const both = settings({
    SUPABASE_URL: "https://p.supabase.co/",
    SUPABASE_SECRET_KEYS: '{"default": "sb_secret_1", "ci": "sb_secret_2"}',
    SUPABASE_SERVICE_ROLE_KEY: "a.b.c",
    FUNCTION_SECRET: " f ",
  });
  equal(both.projectUrl, "https://p.supabase.co");
  equal(both.secretKey, "sb_secret_1");
  equal(both.callerSecrets, ["f", "sb_secret_1", "sb_secret_2", "a.b.c"]);
  equal(settings({ SUPABASE_SERVICE_ROLE_KEY: "a.b.c" }).secretKey, "a.b.c");
  equal(settings({ SUPABASE_SECRET_KEYS: "no json" }).callerSecrets, []);
});

async function parsed(body: unknown, limits: Record<string, string> = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return await readRequest(
    new Request("http://x/", { method: "POST", body: text }),
    settings(limits),
  );
}

Deno.test("texts are trimmed as collection templates trim them", async () => {
  equal(await parsed({ rows: [{ id: 7, text: " \t a b\r\n" }, { id: "k", text: "\u00a0" }] }), {
    rows: [{ id: "7", text: "a b" }, { id: "k", text: "\u00a0" }],
    collection: null,
  });
});

for (
  const [name, body, status] of [
    ["no JSON", "{", 422],
    ["no rows", {}, 422],
    ["empty rows", { rows: [] }, 422],
    ["a row without text", { rows: [{ id: 1 }] }, 422],
    ["a fractional id", { rows: [{ id: 1.5, text: "" }] }, 422],
    ["an id that JSON rounds", '{"rows": [{"id": 9007199254740993, "text": ""}]}', 422],
    ["an id too long", { rows: [{ id: "k".repeat(1001), text: "" }] }, 422],
    ["a collection that is not a string", { rows: [{ id: 1, text: "" }], collection: 3 }, 422],
    ["too many rows", { rows: Array(4).fill({ id: 1, text: "" }) }, 413],
    ["too many bytes", { rows: [{ id: 1, text: "x".repeat(2000) }] }, 413],
  ] as [string, unknown, number][]
) {
  Deno.test(`refused: ${name}`, async () => {
    const limits = { BACKLINE_MAX_ROWS: "3", BACKLINE_MAX_BODY_BYTES: "1500" };
    const error = await parsed(body, limits).then(() => null, (error) => error);
    equal([error instanceof Problem, error?.status], [true, status]);
  });
}

Deno.test("vector text preserves every float32", () => {
  const vector = new Float32Array([1 / 3, -1e-30, 3.4e38, 0, -0.1, 2 ** -149]);
  equal(
    Float32Array.from(JSON.parse(vectorText(vector))),
    new Float32Array(vector).map((x) => x + 0),
  );
});

/** Call a service that answers 307. The error must name the other address, which gets nothing. */
async function isNotFollowed(call: (url: string) => Promise<unknown>) {
  let followed = 0;
  const options = { port: 0, hostname: "127.0.0.1", onListen: () => {} };
  const other = Deno.serve(options, () => {
    followed += 1;
    return new Response("{}");
  });
  const location = `http://127.0.0.1:${other.addr.port}/elsewhere`;
  const headers = { location: `${location}?token=hidden` };
  const service = Deno.serve(options, () => new Response(null, { status: 307, headers }));
  try {
    await rejects(
      call(`http://127.0.0.1:${service.addr.port}`),
      (error: Error) =>
        error instanceof Problem && error.message.includes(location) &&
        !error.message.includes("hidden"),
    );
    equal(followed, 0);
  } finally {
    await service.shutdown();
    await other.shutdown();
  }
}

Deno.test("a redirect of the provider is not followed", async () => {
  const model = { provider: "openai", name: "m", revision: "v1", dimensions: 3 };
  await isNotFollowed((url) =>
    createEmbedder(model, settings({ OPENAI_BASE_URL: `${url}/v1`, OPENAI_API_KEY: "k" }))([
      "a private text",
    ])
  );
});

const VECTOR = [0.6, 0.8, 0];

/** Embed texts with a model, at a server that answers `bodies` in turn; return what it was sent. */
async function sent(
  model: string,
  texts: string[],
  respond: (body: Record<string, unknown>) => Response,
): Promise<{ vectors: Float32Array[]; bodies: Record<string, unknown>[] }> {
  const bodies: Record<string, unknown>[] = [];
  const options = { port: 0, hostname: "127.0.0.1", onListen: () => {} };
  const service = Deno.serve(options, async (request) => {
    bodies.push(await request.json());
    return respond(bodies.at(-1)!);
  });
  const [provider, name] = [model.split("/")[0]!, model.split("/").slice(1).join("/")];
  const variables = {
    OPENAI_BASE_URL: `http://127.0.0.1:${service.addr.port}`,
    OLLAMA_BASE_URL: `http://127.0.0.1:${service.addr.port}`,
  };
  const declared = { provider, name, revision: "v1", dimensions: 3 };
  try {
    const vectors = await createEmbedder(declared, settings(variables))(texts);
    return { vectors, bodies };
  } finally {
    await service.shutdown();
  }
}

Deno.test("dimensions that a server does not take are left out", async () => {
  const { vectors, bodies } = await sent(
    "openai/house",
    ["a"],
    (body) =>
      "dimensions" in body
        ? Response.json({ error: { message: "does not support matryoshka" } }, { status: 400 })
        : Response.json({ data: [{ index: 0, embedding: VECTOR }] }),
  );
  equal(vectors, [Float32Array.from(VECTOR)]);
  equal(bodies.map((body) => body.dimensions), [3, undefined]);
});

Deno.test("a text without a usable vector is rejected, not retried", async () => {
  for (const row of [null, [0, 0, 0], ["NaN", 1, 0]]) {
    await rejects(
      sent("ollama/house", ["a"], () => Response.json({ embeddings: [row] })),
      RejectedTextError,
    );
  }
});

Deno.test("an error that the provider words otherwise has its meaning", async () => {
  const long = "the input length exceeds the context length";
  await rejects(
    sent("ollama/house", ["a"], () => Response.json({ error: long }, { status: 500 })),
    RejectedTextError,
  );
  const quota = { error: { message: "no", code: "insufficient_quota" } };
  await rejects(
    sent("openai/house", ["a"], () => Response.json(quota, { status: 429 })),
    hasStatus(502),
  );
});

Deno.test("a redirect of the project is not followed", async () => {
  const key = { SUPABASE_SERVICE_ROLE_KEY: "a.b.c" };
  await isNotFollowed((url) =>
    new Database(settings({ SUPABASE_URL: url, ...key })).collection("notes")
  );
});
