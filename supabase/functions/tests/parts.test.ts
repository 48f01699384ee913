// The parts of the function that need nothing outside; tests/supabase/test_edge.py runs the whole of it.
import { deepStrictEqual as equal, throws } from "node:assert/strict";
import { requireCaller } from "../upsert-embeddings/callers.ts";
import { vectorText } from "../upsert-embeddings/embedders.ts";
import { Problem } from "../upsert-embeddings/problems.ts";
import { read } from "../upsert-embeddings/request.ts";
import { type Settings, settingsOf } from "../upsert-embeddings/settings.ts";

function settings(variables: Record<string, string> = {}): Settings {
  return settingsOf({ get: (name) => variables[name] });
}

function status(found: number) {
  return (error: unknown) => error instanceof Problem && error.status === found;
}

Deno.test("each place of a key lets in whoever has one of the secrets", () => {
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

Deno.test("nobody else gets in", () => {
  const secrets = ["function-secret"];
  for (const key of ["", "function-secre", "function-secret2", "sb_publishable_1"]) {
    throws(() => requireCaller(new Headers({ apikey: key }), secrets), status(401));
  }
  throws(
    () => requireCaller(new Headers({ authorization: "function-secret" }), secrets),
    status(401),
  );
  throws(() => requireCaller(new Headers(), secrets), status(401));
  throws(() => requireCaller(new Headers({ apikey: "" }), []), status(500));
});

Deno.test("the environment of new and of legacy projects", () => {
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

async function asked(body: unknown, limits: Record<string, string> = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return await read(new Request("http://x/", { method: "POST", body: text }), settings(limits));
}

Deno.test("a request is read, its texts trimmed as templates trim them", async () => {
  equal(await asked({ rows: [{ id: 7, text: " \t a b\r\n" }, { id: "k", text: "\u00a0" }] }), {
    rows: [{ id: "7", text: "a b" }, { id: "k", text: "\u00a0" }],
    collection: null,
  });
});

for (
  const [name, body, wanted] of [
    ["no JSON", "{", 422],
    ["no rows", {}, 422],
    ["empty rows", { rows: [] }, 422],
    ["a row without text", { rows: [{ id: 1 }] }, 422],
    ["an id that is no key", { rows: [{ id: 1.5, text: "" }] }, 422],
    ["an id that JSON would round", '{"rows": [{"id": 9007199254740993, "text": ""}]}', 422],
    ["an id too long", { rows: [{ id: "k".repeat(1001), text: "" }] }, 422],
    ["a collection that is none", { rows: [{ id: 1, text: "" }], collection: 3 }, 422],
    ["too many rows", { rows: Array(4).fill({ id: 1, text: "" }) }, 413],
    ["too many bytes", { rows: [{ id: 1, text: "x".repeat(2000) }] }, 413],
  ] as [string, unknown, number][]
) {
  Deno.test(`refused: ${name}`, async () => {
    const limits = { BACKLINE_MAX_ROWS: "3", BACKLINE_MAX_BODY_BYTES: "1500" };
    const error = await asked(body, limits).then(() => null, (error) => error);
    equal([error instanceof Problem, error?.status], [true, wanted]);
  });
}

Deno.test("a vector as text is the very float32", () => {
  const vector = new Float32Array([1 / 3, -1e-30, 3.4e38, 0, -0.1, 2 ** -149]);
  equal(
    Float32Array.from(JSON.parse(vectorText(vector))),
    new Float32Array(vector).map((x) => x + 0),
  );
});
