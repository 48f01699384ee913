"""Embeddings over HTTP from the servers of `providers.toml`, without their SDKs."""
