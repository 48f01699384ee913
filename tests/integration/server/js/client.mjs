// Calls the server with OpenAI's JavaScript client and prints the results as JSON.
import OpenAI from "openai";

const [baseURL, texts] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new OpenAI({ baseURL, apiKey: "none needed", maxRetries: 0 });
const embed = (options) => client.embeddings.create({ model: "hash", ...options });

const many = await embed({ input: texts });
const one = await embed({ input: texts[0] });
const floats = await embed({ input: texts[1], encoding_format: "float" });
const few = await embed({ input: "x", dimensions: 16 });
const refused = await client.embeddings
  .create({ model: "gpt", input: "x" })
  .catch((error) => ({ status: error.status, code: error.code }));

console.log(
  JSON.stringify({
    many: many.data.map((item) => item.embedding),
    one: one.data[0].embedding,
    floats: floats.data[0].embedding,
    few: few.data[0].embedding.length,
    usage: many.usage,
    refused,
  }),
);
