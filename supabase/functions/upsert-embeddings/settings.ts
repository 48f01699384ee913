// The settings, read once from the environment. Supabase sets the SUPABASE_ variables; the others
// are secrets (`supabase secrets set`).
import { PROVIDERS } from "./models.gen.ts";

export interface Settings {
  readonly projectUrl: string;
  /** The key for PostgREST, which acts as service_role. */
  readonly secretKey: string;
  /** The keys that callers may use. */
  readonly callerSecrets: readonly string[];
  /** The key and the address of each provider, if they are set. */
  readonly providers: Readonly<Record<string, { key: string | null; address: string | null }>>;
  readonly maxRows: number;
  readonly maxBytes: number;
}

interface Environment {
  get(name: string): string | undefined;
}

export function readSettings(environment: Environment): Settings {
  const get = (name: string) => environment.get(name)?.trim() || null;
  const secretKeys = [...parseKeys(get("SUPABASE_SECRET_KEYS")), get("SUPABASE_SERVICE_ROLE_KEY")]
    .filter((key) => key !== null);
  return {
    projectUrl: (get("SUPABASE_URL") ?? "").replace(/\/+$/, ""),
    secretKey: secretKeys[0] ?? "",
    callerSecrets: [get("FUNCTION_SECRET"), ...secretKeys].filter((secret) => secret !== null),
    providers: Object.fromEntries(
      Object.entries(PROVIDERS).map(([name, { keys, addresses }]) => [name, {
        key: first(keys, get),
        address: first(addresses, get)?.replace(/\/+$/, "") ?? null,
      }]),
    ),
    maxRows: positiveInteger(get("BACKLINE_MAX_ROWS"), 200),
    maxBytes: positiveInteger(get("BACKLINE_MAX_BODY_BYTES"), 1 << 20),
  };
}

/** Return the first variable that is set. */
function first(names: readonly string[], get: (name: string) => string | null): string | null {
  return names.map(get).find((value) => value !== null) ?? null;
}

/** Return the secret keys of a project from their JSON map of name to key. */
function parseKeys(map: string | null): string[] {
  if (map === null) return [];
  try {
    return Object.values(JSON.parse(map)).filter((key): key is string =>
      typeof key === "string" && key !== ""
    );
  } catch {
    return [];
  }
}

function positiveInteger(text: string | null, fallback: number): number {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 ? value : fallback;
}
