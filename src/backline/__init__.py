"""Backline keeps the embeddings behind your Postgres tables filled, fresh and searchable."""
