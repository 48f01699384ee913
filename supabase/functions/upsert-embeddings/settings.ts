// The settings, read once from the environment. Supabase sets the SUPABASE_ variables; the others
// are secrets (`supabase secrets set`).

export interface Settings {
  readonly projectUrl: string;
  /** The key for PostgREST, which acts as service_role. */
  readonly secretKey: string;
  /** The keys that callers may use. */
  readonly callerSecrets: readonly string[];
  readonly openaiKey: string | null;
  readonly openaiUrl: string;
  readonly maxRows: number;
  readonly maxBytes: number;
}

interface Environment {
  get(name: string): string | undefined;
}

const DEFAULT_OPENAI = "https://api.openai.com/v1";

export function readSettings(environment: Environment): Settings {
  const get = (name: string) => environment.get(name)?.trim() || null;
  const secretKeys = [...parseKeys(get("SUPABASE_SECRET_KEYS")), get("SUPABASE_SERVICE_ROLE_KEY")]
    .filter((key) => key !== null);
  return {
    projectUrl: (get("SUPABASE_URL") ?? "").replace(/\/+$/, ""),
    secretKey: secretKeys[0] ?? "",
    callerSecrets: [get("FUNCTION_SECRET"), ...secretKeys].filter((secret) => secret !== null),
    openaiKey: get("OPENAI_API_KEY"),
    openaiUrl: (get("OPENAI_BASE_URL") ?? DEFAULT_OPENAI).replace(/\/+$/, ""),
    maxRows: positiveInteger(get("BACKLINE_MAX_ROWS"), 200),
    maxBytes: positiveInteger(get("BACKLINE_MAX_BODY_BYTES"), 1 << 20),
  };
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
