// Who may call: whoever has FUNCTION_SECRET or a secret key of the project. The platform's own check
// (verify_jwt) is off, because opaque keys are no JWTs and it lets every anon key pass.
import { createHash, timingSafeEqual } from "node:crypto";
import { Problem } from "./problems.ts";

export function requireCaller(headers: Headers, secrets: readonly string[]): void {
  if (secrets.length === 0) {
    throw new Problem(
      500,
      "Misconfigured",
      "The function knows no secret to check its callers by. Set one: supabase secrets set FUNCTION_SECRET=…",
    );
  }
  const given = [
    headers.get("x-api-key"),
    headers.get("apikey"),
    headers.get("authorization")?.match(/^Bearer\s+(.+)$/i)?.[1] ?? null,
  ].filter((key) => key !== null);
  // Every pair is compared, so that the time taken says nothing of which one fits, or how far.
  let fits = false;
  for (const key of given) {
    for (const secret of secrets) fits = same(key, secret) || fits;
  }
  if (fits) return;
  throw new Problem(
    401,
    "Unauthorized",
    given.length === 0
      ? "No key was sent. Send the project's secret key as apikey, or FUNCTION_SECRET as Authorization: Bearer."
      : "The key is not FUNCTION_SECRET and no secret key of this project. A publishable (anon) key may not write.",
  );
}

/** Whether two texts are equal, in a time that depends on neither. */
function same(one: string, other: string): boolean {
  return timingSafeEqual(digest(one), digest(other));
}

function digest(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}
