// --preload: stubs the AI session that only Supabase's Edge Runtime has. Vectors are derived from a
// hash of the text, so equal texts have equal vectors, and different texts have different ones.
class Session {
  constructor(model: string) {
    if (model !== "gte-small") throw new Error(`the stub has no model ${model}`);
  }

  async run(text: string): Promise<number[]> {
    const bytes = new Uint8Array(
      await crypto.subtle.digest("SHA-512", new TextEncoder().encode(text)),
    );
    const vector = Array.from({ length: 384 }, (_, i) => bytes[i % 64]! - 127.5 + (i * 7) % 13);
    const length = Math.hypot(...vector);
    return vector.map((x) => x / length);
  }
}
Object.assign(globalThis, { Supabase: { ai: { Session } } });
