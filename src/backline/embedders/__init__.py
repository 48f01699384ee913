"""Embedders: turn texts into a float32 matrix. `open_embedder` opens one by its specification.

To add a provider:

1. Implement `base.Embedder` in a new module or package here.
2. Add an entry to `PROVIDERS` in `specs.py`, so that specifications parse and open it.
3. Add a subject to tests/unit/test_embedder_conformance.py, which tests every embedder.
"""
