"""OpenAI's embeddings API and servers that speak it."""
