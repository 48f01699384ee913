"""Supabase: API keys, the REST client, and the store over PostgREST."""
