// Made by `make docs` from src/backline/data/{providers,models}.toml. Do not edit.
// deno-fmt-ignore-file

export interface Provider {
  readonly title: string;
  readonly wire: "openai" | "cohere" | "gemini" | "ollama" | "tei";
  readonly address: string | null;
  readonly path: string;
  readonly keys: readonly string[];
  readonly addresses: readonly string[];
  readonly keyHeader: string | null;
  readonly keyRequired: boolean;
  readonly selfHosted: boolean;
  /** Names of members of a request in OpenAI's form. */
  readonly fields: Readonly<Record<"dimensions" | "type" | "encoding", string | null>>;
  readonly body: Readonly<Record<string, unknown>>;
  /** The status that says the same as a code or a phrase of an error. */
  readonly means: Readonly<Record<string, number>>;
  /** What marks the passages of a model without an entry. */
  readonly marks: Marks;
}

/** What precedes a passage, the type that goes with it, and the revision that stands for both. */
export interface Marks {
  readonly prefix: string;
  readonly type: string | null;
  readonly revision: string;
}

export interface ModelEntry extends Marks {
  readonly dimensions: number;
}

export const PROVIDERS: Readonly<Record<string, Provider>> = {
  "openai": {"title": "OpenAI", "wire": "openai", "address": "https://api.openai.com/v1", "path": "/embeddings", "keys": ["OPENAI_API_KEY"], "addresses": ["OPENAI_BASE_URL"], "keyHeader": null, "keyRequired": true, "selfHosted": true, "fields": {"dimensions": "dimensions", "type": null, "encoding": "encoding_format"}, "body": {}, "means": {"insufficient_quota": 402, "billing_hard_limit_reached": 402, "billing_not_active": 402}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
  "azure": {"title": "Azure OpenAI", "wire": "openai", "address": null, "path": "/openai/v1/embeddings", "keys": ["AZURE_OPENAI_API_KEY"], "addresses": ["AZURE_OPENAI_ENDPOINT"], "keyHeader": "api-key", "keyRequired": true, "selfHosted": false, "fields": {"dimensions": "dimensions", "type": null, "encoding": "encoding_format"}, "body": {}, "means": {}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
  "gemini": {"title": "Gemini", "wire": "gemini", "address": "https://generativelanguage.googleapis.com/v1beta", "path": "", "keys": ["GEMINI_API_KEY", "GOOGLE_API_KEY"], "addresses": ["GEMINI_BASE_URL"], "keyHeader": "x-goog-api-key", "keyRequired": true, "selfHosted": false, "fields": {"dimensions": null, "type": null, "encoding": null}, "body": {}, "means": {"API_KEY_INVALID": 401, "FAILED_PRECONDITION": 402}, "marks": {"prefix": "", "type": "RETRIEVAL_DOCUMENT", "revision": "v1-55b2b4c1"}},
  "voyage": {"title": "Voyage", "wire": "openai", "address": "https://api.voyageai.com/v1", "path": "/embeddings", "keys": ["VOYAGE_API_KEY"], "addresses": ["VOYAGE_BASE_URL"], "keyHeader": null, "keyRequired": true, "selfHosted": false, "fields": {"dimensions": "output_dimension", "type": "input_type", "encoding": "encoding_format"}, "body": {"truncation": false}, "means": {}, "marks": {"prefix": "", "type": "document", "revision": "v1-7aac4c08"}},
  "cohere": {"title": "Cohere", "wire": "cohere", "address": "https://api.cohere.com", "path": "/v2/embed", "keys": ["COHERE_API_KEY", "CO_API_KEY"], "addresses": ["COHERE_BASE_URL"], "keyHeader": null, "keyRequired": true, "selfHosted": false, "fields": {"dimensions": null, "type": null, "encoding": null}, "body": {}, "means": {"calls / month": 402}, "marks": {"prefix": "", "type": "search_document", "revision": "v1-e327aac6"}},
  "mistral": {"title": "Mistral", "wire": "openai", "address": "https://api.mistral.ai/v1", "path": "/embeddings", "keys": ["MISTRAL_API_KEY"], "addresses": ["MISTRAL_BASE_URL"], "keyHeader": null, "keyRequired": true, "selfHosted": false, "fields": {"dimensions": "output_dimension", "type": null, "encoding": "encoding_format"}, "body": {}, "means": {}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
  "jina": {"title": "Jina", "wire": "openai", "address": "https://api.jina.ai/v1", "path": "/embeddings", "keys": ["JINA_API_KEY"], "addresses": ["JINA_BASE_URL"], "keyHeader": null, "keyRequired": true, "selfHosted": false, "fields": {"dimensions": "dimensions", "type": "task", "encoding": "embedding_type"}, "body": {"truncate": false}, "means": {"INPUT_MODEL_NOT_FOUND": 404, "AUTHZ_INSUFFICIENT_BALANCE": 402}, "marks": {"prefix": "", "type": "retrieval.passage", "revision": "v1-2b7e91c5"}},
  "nvidia": {"title": "NVIDIA NIM", "wire": "openai", "address": "https://integrate.api.nvidia.com/v1", "path": "/embeddings", "keys": ["NVIDIA_API_KEY"], "addresses": ["NVIDIA_BASE_URL"], "keyHeader": null, "keyRequired": true, "selfHosted": false, "fields": {"dimensions": "dimensions", "type": "input_type", "encoding": "encoding_format"}, "body": {"truncate": "NONE"}, "means": {}, "marks": {"prefix": "", "type": "passage", "revision": "v1-16b099da"}},
  "ollama": {"title": "Ollama", "wire": "ollama", "address": "http://localhost:11434", "path": "/api/embed", "keys": ["OLLAMA_API_KEY"], "addresses": ["OLLAMA_BASE_URL"], "keyHeader": null, "keyRequired": false, "selfHosted": true, "fields": {"dimensions": null, "type": null, "encoding": null}, "body": {}, "means": {"exceeds the context length": 400, "exceeds maximum context length": 400}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
  "tei": {"title": "Text Embeddings Inference", "wire": "tei", "address": null, "path": "/embed", "keys": ["TEI_API_KEY"], "addresses": ["TEI_BASE_URL"], "keyHeader": null, "keyRequired": false, "selfHosted": true, "fields": {"dimensions": null, "type": null, "encoding": null}, "body": {}, "means": {}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
  "vllm": {"title": "vLLM", "wire": "openai", "address": "http://localhost:8000/v1", "path": "/embeddings", "keys": ["VLLM_API_KEY"], "addresses": ["VLLM_BASE_URL"], "keyHeader": null, "keyRequired": false, "selfHosted": true, "fields": {"dimensions": "dimensions", "type": null, "encoding": "encoding_format"}, "body": {}, "means": {}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
  "compatible": {"title": "Any server with OpenAI's API", "wire": "openai", "address": null, "path": "/embeddings", "keys": ["BACKLINE_COMPATIBLE_API_KEY"], "addresses": ["BACKLINE_COMPATIBLE_BASE_URL"], "keyHeader": null, "keyRequired": false, "selfHosted": true, "fields": {"dimensions": "dimensions", "type": null, "encoding": "encoding_format"}, "body": {}, "means": {}, "marks": {"prefix": "", "type": null, "revision": "v1"}},
};

export const MODELS: Readonly<Record<string, ModelEntry>> = {
  "openai/text-embedding-3-small": {"dimensions": 1536, "prefix": "", "type": null, "revision": "v1"},
  "openai/text-embedding-3-large": {"dimensions": 3072, "prefix": "", "type": null, "revision": "v1"},
  "openai/text-embedding-ada-002": {"dimensions": 1536, "prefix": "", "type": null, "revision": "v1"},
  "azure/text-embedding-3-small": {"dimensions": 1536, "prefix": "", "type": null, "revision": "v1"},
  "azure/text-embedding-3-large": {"dimensions": 3072, "prefix": "", "type": null, "revision": "v1"},
  "azure/text-embedding-ada-002": {"dimensions": 1536, "prefix": "", "type": null, "revision": "v1"},
  "gemini/gemini-embedding-2": {"dimensions": 3072, "prefix": "title: none | text: ", "type": null, "revision": "v1-a76d8211"},
  "gemini/gemini-embedding-001": {"dimensions": 3072, "prefix": "", "type": "RETRIEVAL_DOCUMENT", "revision": "v1-55b2b4c1"},
  "gemini/text-embedding-004": {"dimensions": 768, "prefix": "", "type": "RETRIEVAL_DOCUMENT", "revision": "v1-55b2b4c1"},
  "voyage/voyage-4-large": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-4": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-4-lite": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-3.5": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-3.5-lite": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-3-large": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-code-3": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-finance-2": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "voyage/voyage-law-2": {"dimensions": 1024, "prefix": "", "type": "document", "revision": "v1-7aac4c08"},
  "cohere/embed-v4.0": {"dimensions": 1536, "prefix": "", "type": "search_document", "revision": "v1-e327aac6"},
  "cohere/embed-english-v3.0": {"dimensions": 1024, "prefix": "", "type": "search_document", "revision": "v1-e327aac6"},
  "cohere/embed-multilingual-v3.0": {"dimensions": 1024, "prefix": "", "type": "search_document", "revision": "v1-e327aac6"},
  "cohere/embed-english-v2.0": {"dimensions": 4096, "prefix": "", "type": "search_document", "revision": "v1-e327aac6"},
  "cohere/embed-multilingual-v2.0": {"dimensions": 768, "prefix": "", "type": "search_document", "revision": "v1-e327aac6"},
  "mistral/mistral-embed": {"dimensions": 1024, "prefix": "", "type": null, "revision": "v1"},
  "mistral/codestral-embed": {"dimensions": 1536, "prefix": "", "type": null, "revision": "v1"},
  "jina/jina-embeddings-v5-text-small": {"dimensions": 1024, "prefix": "", "type": "retrieval.passage", "revision": "v1-2b7e91c5"},
  "jina/jina-embeddings-v5-text-nano": {"dimensions": 768, "prefix": "", "type": "retrieval.passage", "revision": "v1-2b7e91c5"},
  "jina/jina-embeddings-v4": {"dimensions": 2048, "prefix": "", "type": "retrieval.passage", "revision": "v1-2b7e91c5"},
  "jina/jina-embeddings-v3": {"dimensions": 1024, "prefix": "", "type": "retrieval.passage", "revision": "v1-2b7e91c5"},
  "jina/jina-embeddings-v2-base-en": {"dimensions": 768, "prefix": "", "type": null, "revision": "v1"},
  "nvidia/nvidia/llama-nemotron-embed-1b-v2": {"dimensions": 2048, "prefix": "", "type": "passage", "revision": "v1-16b099da"},
  "nvidia/nvidia/nemotron-3-embed-1b": {"dimensions": 2048, "prefix": "", "type": "passage", "revision": "v1-16b099da"},
  "nvidia/nvidia/nv-embedqa-e5-v5": {"dimensions": 1024, "prefix": "", "type": "passage", "revision": "v1-16b099da"},
  "nvidia/baai/bge-m3": {"dimensions": 1024, "prefix": "", "type": "passage", "revision": "v1-16b099da"},
};

/** Models that self-hosted servers name as they like. */
export const OPEN_WEIGHTS: readonly (ModelEntry & { readonly names: readonly string[] })[] = [
  {"names": ["sentence-transformers/all-minilm-l6-v2", "all-minilm-l6-v2", "all-minilm"], "dimensions": 384, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["sentence-transformers/all-minilm-l12-v2", "all-minilm-l12-v2"], "dimensions": 384, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["intfloat/e5-small-v2", "e5-small-v2"], "dimensions": 384, "prefix": "passage: ", "type": null, "revision": "v1-832e184b"},
  {"names": ["baai/bge-small-en-v1.5", "bge-small-en-v1.5"], "dimensions": 384, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["thenlper/gte-small", "gte-small"], "dimensions": 384, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["intfloat/multilingual-e5-small", "multilingual-e5-small"], "dimensions": 384, "prefix": "passage: ", "type": null, "revision": "v1-832e184b"},
  {"names": ["nomic-ai/nomic-embed-text-v1.5", "nomic-embed-text-v1.5", "nomic-embed-text"], "dimensions": 768, "prefix": "search_document: ", "type": null, "revision": "v1-293555bf"},
  {"names": ["baai/bge-m3", "bge-m3"], "dimensions": 1024, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["mixedbread-ai/mxbai-embed-large-v1", "mxbai-embed-large-v1", "mxbai-embed-large"], "dimensions": 1024, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["qwen/qwen3-embedding-0.6b", "qwen3-embedding-0.6b", "qwen3-embedding:0.6b"], "dimensions": 1024, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["google/embeddinggemma-300m", "embeddinggemma-300m", "embeddinggemma"], "dimensions": 768, "prefix": "title: none | text: ", "type": null, "revision": "v1-a76d8211"},
  {"names": ["intfloat/multilingual-e5-base", "multilingual-e5-base"], "dimensions": 768, "prefix": "passage: ", "type": null, "revision": "v1-832e184b"},
  {"names": ["intfloat/multilingual-e5-large", "multilingual-e5-large"], "dimensions": 1024, "prefix": "passage: ", "type": null, "revision": "v1-832e184b"},
  {"names": ["snowflake/snowflake-arctic-embed-l-v2.0", "snowflake-arctic-embed-l-v2.0", "snowflake-arctic-embed2"], "dimensions": 1024, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["ibm-granite/granite-embedding-small-english-r2", "granite-embedding-small-english-r2"], "dimensions": 384, "prefix": "", "type": null, "revision": "v1"},
  {"names": ["ibm-granite/granite-embedding-97m-multilingual-r2", "granite-embedding-97m-multilingual-r2"], "dimensions": 384, "prefix": "", "type": null, "revision": "v1"},
];
