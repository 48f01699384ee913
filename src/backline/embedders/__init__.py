"""Embedders: texts in, a float32 matrix out. `open_embedder` opens one by its specification."""
