// The environment, read once. Supabase sets the SUPABASE_ ones itself; the others are its secrets
// (`supabase secrets set`).

export interface Settings {
  readonly projectUrl: string;
  /** What PostgREST is asked with: acts as service_role. */
  readonly secretKey: string;
  /** Any of these lets a caller in. */
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

export function settingsOf(environment: Environment): Settings {
  const get = (name: string) => environment.get(name)?.trim() || null;
  const secretKeys = [...keysOf(get("SUPABASE_SECRET_KEYS")), get("SUPABASE_SERVICE_ROLE_KEY")]
    .filter((key) => key !== null);
  return {
    projectUrl: (get("SUPABASE_URL") ?? "").replace(/\/+$/, ""),
    secretKey: secretKeys[0] ?? "",
    callerSecrets: [get("FUNCTION_SECRET"), ...secretKeys].filter((secret) => secret !== null),
    openaiKey: get("OPENAI_API_KEY"),
    openaiUrl: (get("OPENAI_BASE_URL") ?? DEFAULT_OPENAI).replace(/\/+$/, ""),
    maxRows: number(get("BACKLINE_MAX_ROWS"), 200),
    maxBytes: number(get("BACKLINE_MAX_BODY_BYTES"), 1 << 20),
  };
}

/** The secret keys of a project, which come as a JSON map from name to key. */
function keysOf(map: string | null): string[] {
  if (map === null) return [];
  try {
    return Object.values(JSON.parse(map)).filter((key): key is string =>
      typeof key === "string" && key !== ""
    );
  } catch {
    return [];
  }
}

function number(text: string | null, otherwise: number): number {
  const value = Number(text);
  return Number.isInteger(value) && value > 0 ? value : otherwise;
}
