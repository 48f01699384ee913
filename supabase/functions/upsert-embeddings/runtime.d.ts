// What Supabase's Edge Runtime has and Deno has not: https://supabase.com/docs/guides/functions/ai-models
declare namespace Supabase {
  namespace ai {
    class Session {
      constructor(model: "gte-small");
      run(
        text: string,
        options: { mean_pool: boolean; normalize: boolean },
      ): Promise<number[] | Float32Array>;
    }
  }
}
