// Authorization: a caller needs FUNCTION_SECRET or a secret key of the project. The platform's check
// (verify_jwt) is off, because opaque keys are not JWTs and it accepts every anon key.
import { createHash, timingSafeEqual } from "node:crypto";
import { Problem } from "./problems.ts";

export function requireCaller(headers: Headers, secrets: readonly string[]): void {
  if (secrets.length === 0) {
    throw new Problem(
      500,
      "Misconfigured",
      "The function has no secret to check callers with. Set one: supabase secrets set FUNCTION_SECRET=…",
    );
  }
  const keys = [
    headers.get("x-api-key"),
    headers.get("apikey"),
    headers.get("authorization")?.match(/^Bearer\s+(.+)$/i)?.[1] ?? null,
  ].filter((key) => key !== null);
  // Compare every pair, so that the time does not reveal which secret matches.
  let authorized = false;
  for (const key of keys) {
    for (const secret of secrets) authorized = isEqual(key, secret) || authorized;
  }
  if (authorized) return;
  throw new Problem(
    401,
    "Unauthorized",
    keys.length === 0
      ? "The request has no key. Send the project's secret key as apikey, or FUNCTION_SECRET as Authorization: Bearer."
      : "The key is neither FUNCTION_SECRET nor a secret key of this project. A publishable (anon) key may not write.",
  );
}

/** Compare two texts in constant time. */
function isEqual(one: string, other: string): boolean {
  return timingSafeEqual(digest(one), digest(other));
}

function digest(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}
