"""Tokenizers for local models."""
