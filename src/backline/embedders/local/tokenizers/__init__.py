"""Tokenizers for local models: BERT's WordPiece, and others through `tokenizers`."""
