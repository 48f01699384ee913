"""Compare Backline's local embedder with sentence-transformers, in one run on one machine.

    python -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 sentence-transformers==6.2.0
    python benchmarks/local.py --reference-python /tmp/reference/bin/python --json results.json

Each side runs in its own process on the same texts, in rounds with alternating order. The result is
the ratio within a round. sentence-transformers runs at its best batch size on this machine. Both
read the weights that `backline model pull` has verified.

On a machine with other load, use --threads 1 and the ratio by CPU time. torch's threads wait for
each other by spinning, so its figures collapse if another process occupies one of two processors.

The texts are the shipped music advice: single sentences (short) and several pieces of advice in
one (long, near the model's limit of 256 tokens). With --corpus, the texts for fidelity are the
"text" fields of a JSONL file.

Both interpreters run this file, so a package that only one of them has is imported at its use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

MODEL = "all-MiniLM-L6-v2"
SEED = 20_260_101
REFERENCE_BATCH_SIZES = (8, 16, 32, 64, 128)
QUERIES = 300
NEIGHBOURS = 10
HIDDEN, INNER, LAYERS = 384, 1_536, 6
ADVICE = Path(__file__).parents[1] / "src" / "backline" / "data" / "music_knowledge.jsonl"


# --- texts ----------------------------------------------------------------------------------------


def advice() -> list[str]:
    with ADVICE.open(encoding="utf-8") as file:
        return [json.loads(line)["suggestion"] for line in file]


def short_texts(count: int) -> list[str]:
    """Return single sentences with a numbered prefix, as rows of a table often have."""
    pieces = [part.strip() for text in advice() for part in text.split(". ") if len(part) > 40]
    return [f"Tip {i}: {pieces[i % len(pieces)]}" for i in range(count)]


def long_texts(count: int) -> list[str]:
    pieces, pick = advice(), random.Random(SEED)
    return [" ".join(pick.sample(pieces, 4)) for _ in range(count)]


def varied_texts(count: int) -> list[str]:
    """Return distinct texts of two sentences each."""
    pieces, pick = short_texts(800), random.Random(SEED)
    return [" ".join(pick.sample(pieces, 2)) for _ in range(count)]


def corpus_texts(path: Path, count: int) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line, _ in zip(file, range(count), strict=False)]


# --- one side, in its own process -----------------------------------------------------------------


class BacklineSide:
    """Answers requests with Backline's embedder."""

    def __init__(self, args: argparse.Namespace) -> None:
        started = time.perf_counter()
        from backline.embedders.local import open_local

        self._loop = asyncio.new_event_loop()
        opened = time.perf_counter()
        self._embedder = self._loop.run_until_complete(
            open_local(MODEL, engine=args.engine, threads=args.threads)
        )
        self.embed(["ready"])
        info = self._embedder.info()
        self.about: dict[str, Any] = {
            "import_s": opened - started,
            "load_s": time.perf_counter() - opened,
            "engine": f"{info.engine} {info.precision}",
            "threads": info.threads,
        }

    def embed(self, texts: Sequence[str], _batch_size: int = 0) -> Any:
        return self._loop.run_until_complete(self._embedder.embed(texts))

    def query(self, text: str) -> Any:
        return self._loop.run_until_complete(self._embedder.embed([text], purpose="query"))

    def tokens(self, texts: Sequence[str]) -> list[int]:
        limit = self._embedder.model.max_tokens
        return [min(count, limit) for count in self._embedder.count_tokens(texts)]


class ReferenceSide:
    """Answers requests with sentence-transformers."""

    def __init__(self, args: argparse.Namespace) -> None:
        started = time.perf_counter()
        import torch
        from sentence_transformers import SentenceTransformer

        if args.threads:
            torch.set_num_threads(args.threads)
        opened = time.perf_counter()
        self._model = SentenceTransformer(args.weights, device="cpu")  # mean pooling by default
        self._model.max_seq_length = 256
        self.embed(["ready"])
        self.about: dict[str, Any] = {
            "import_s": opened - started,
            "load_s": time.perf_counter() - opened,
            "engine": f"torch {torch.__version__} float32",
            "threads": torch.get_num_threads(),
        }

    def embed(self, texts: Sequence[str], batch_size: int = 32) -> Any:
        return self._model.encode(
            list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    def query(self, text: str) -> Any:
        return self.embed([text])

    def peak_gflops(self) -> dict[str, float]:
        """Return torch's peak rate for a matrix product of the encoder's shape."""
        import torch

        peaks = {}
        for name, kind in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            left, right = torch.randn(1_024, INNER).to(kind), torch.randn(INNER, INNER).to(kind)
            best = min(_seconds(partial(torch.matmul, left, right)) for _ in range(50))
            peaks[name] = 2 * 1_024 * INNER * INNER / best / 1e9
        return peaks


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def serve(side: BacklineSide | ReferenceSide) -> None:
    """Read one JSON request per line and print one JSON response per line."""
    handlers: dict[str, Callable[[dict[str, Any]], object]] = {
        "about": lambda _r: side.about,
        "time": lambda r: _timed(side, r),
        "queries": lambda r: [_seconds(partial(side.query, t)) for t in _texts(r)],
        "save": lambda r: _save(side, r),
        "tokens": lambda r: side.tokens(_texts(r)) if isinstance(side, BacklineSide) else None,
        "peak": lambda _r: side.peak_gflops() if isinstance(side, ReferenceSide) else None,
        "memory_mb": lambda _r: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(handlers[request["do"]](request)), flush=True)


def _timed(side: BacklineSide | ReferenceSide, request: dict[str, Any]) -> dict[str, float]:
    texts, cpu = _texts(request), time.process_time()
    seconds = _seconds(lambda: side.embed(texts, request.get("batch_size", 32)))
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu}


def _save(side: BacklineSide | ReferenceSide, request: dict[str, Any]) -> None:
    import numpy as np

    np.save(request["to"], np.asarray(side.embed(_texts(request))))


def _texts(request: dict[str, Any]) -> list[str]:
    texts: list[str] = json.loads(Path(request["texts"]).read_text(encoding="utf-8"))
    return texts[: request.get("limit")]


class Process:
    """The client of a `serve` process."""

    def __init__(self, python: str, side: str, args: argparse.Namespace) -> None:
        command = [python, __file__, "--serve", side, "--engine", args.engine]
        command += ["--weights", args.weights]
        command += ["--threads", str(args.threads)] if args.threads else []
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, do: str, **request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


# --- the comparison -------------------------------------------------------------------------------


def flop_per_token(length: float) -> float:
    """Return the encoder's operations for one token of a text of `length` tokens."""
    dense = 2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    return LAYERS * (dense + 4 * length * HIDDEN)


def best_batch_size(reference: Process, texts: str) -> int:
    def seconds(size: int) -> float:
        request = {"texts": texts, "batch_size": size, "limit": 2 * max(REFERENCE_BATCH_SIZES)}
        return float(min(reference.call("time", **request)["seconds"] for _ in range(3)))

    return min(REFERENCE_BATCH_SIZES, key=seconds)


def compare(
    ours: Process, reference: Process, texts: str, rounds: int, peaks: dict[str, float]
) -> dict[str, Any]:
    """Time both sides in alternating order. Return medians and the ratio within each round."""
    lengths = ours.call("tokens", texts=texts)
    size = best_batch_size(reference, texts)
    ours.call("time", texts=texts)
    taken: dict[str, list[dict[str, float]]] = {"backline": [], "reference": []}
    for turn in range(rounds):
        sides = [("backline", ours), ("reference", reference)]
        for name, side in sides if turn % 2 else reversed(sides):
            taken[name].append(side.call("time", texts=texts, batch_size=size))
    return _summary(taken, lengths, size, peaks)


def _summary(
    taken: dict[str, list[dict[str, float]]],
    lengths: Sequence[int],
    size: int,
    peaks: dict[str, float],
) -> dict[str, Any]:
    mean = statistics.fmean(lengths)
    pairs = list(zip(taken["reference"], taken["backline"], strict=True))
    ratios = sorted(theirs["seconds"] / mine["seconds"] for theirs, mine in pairs)
    cpu = sorted(theirs["cpu_seconds"] / mine["cpu_seconds"] for theirs, mine in pairs)
    result: dict[str, Any] = {
        "texts": len(lengths),
        "tokens_per_text": mean,
        "reference_batch_size": size,
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "cpu_ratio": statistics.median(cpu),
    }
    for name, timings in taken.items():
        seconds = statistics.median(t["seconds"] for t in timings)
        gflops = sum(lengths) * flop_per_token(mean) / seconds / 1e9
        result[name] = {
            "texts_per_s": len(lengths) / seconds,
            "tokens_per_s": sum(lengths) / seconds,
            "gflops": gflops,
            "processors_used": statistics.median(t["cpu_seconds"] / t["seconds"] for t in timings),
            "share_of_peak": {kind: gflops / peak for kind, peak in peaks.items()},
        }
    return result


def fidelity(ours: Process, reference: Process, texts: str, folder: Path) -> dict[str, float]:
    """Return the cosines of both sides' vectors and their share of common nearest neighbours."""
    import numpy as np

    stored = []
    for name, side in (("ours", ours), ("reference", reference)):
        side.call("save", texts=texts, to=str(folder / f"{name}.npy"))
        stored.append(np.load(folder / f"{name}.npy"))
    cosines = (stored[0] * stored[1]).sum(axis=1)
    near, expected = (_neighbours(vectors) for vectors in stored)
    shared = [len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(near, expected, strict=True)]
    return {
        "texts": len(cosines),
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "top10_overlap": statistics.fmean(shared),
    }


def _neighbours(vectors: Any) -> list[list[int]]:
    import numpy as np

    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -1)
    nearest: list[list[int]] = np.argpartition(-scores, NEIGHBOURS)[:, :NEIGHBOURS].tolist()
    return nearest


def latency(side: Process, queries: str) -> dict[str, float]:
    seconds = sorted(side.call("queries", texts=queries))
    return {
        "p50_ms": 1e3 * seconds[len(seconds) // 2],
        "p99_ms": 1e3 * seconds[-len(seconds) // 100],
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        varied = (
            corpus_texts(args.corpus, args.fidelity_texts)
            if args.corpus
            else varied_texts(args.fidelity_texts)
        )
        files = {
            "short": _file(folder, "short", short_texts(args.short)),
            "long": _file(folder, "long", long_texts(args.long)),
            "queries": _file(
                folder, "queries", [f"why is take {i} muddy?" for i in range(QUERIES)]
            ),
            "varied": _file(folder, "varied", varied),
        }
        ours = Process(sys.executable, "backline", args)
        reference = Process(args.reference_python, "reference", args)
        try:
            return _measure(ours, reference, files, args.rounds, folder)
        finally:
            ours.close()
            reference.close()


def _measure(
    ours: Process, reference: Process, files: dict[str, str], rounds: int, folder: Path
) -> dict[str, Any]:
    sides = {"backline": ours, "reference": reference}
    peaks = reference.call("peak")
    result: dict[str, Any] = {
        "machine": _machine(),
        "peak_gflops": peaks,
        "about": {name: side.call("about") for name, side in sides.items()},
    }
    for name, side in sides.items():
        side.call("queries", texts=files["queries"].replace("queries", "short"))
        result["about"][name]["query"] = latency(side, files["queries"])
    for texts in ("short", "long"):
        result[texts] = compare(ours, reference, files[texts], rounds, peaks)
    for name, side in sides.items():
        result["about"][name]["peak_memory_mb"] = side.call("memory_mb")
    result["fidelity"] = fidelity(ours, reference, files["varied"], folder)
    return result


def _file(folder: Path, name: str, texts: Sequence[str]) -> str:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    return str(path)


def _machine() -> dict[str, Any]:
    from backline.embedders.local.cpus import usable_cpus

    return {"processor": _processor(), "cpus": usable_cpus(), "python": platform.python_version()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    kinds = [k for k in ("avx512_bf16", "amx_bf16") if k in named.get("flags", "").split()]
    return " ".join([named.get("model name", "unknown"), *kinds])


def table(result: dict[str, Any]) -> str:
    sides = [result["about"]["backline"], result["about"]["reference"]]
    rows: list[tuple[str, ...]] = [("", "Backline", "sentence-transformers", "ratio")]
    rows.append(("engine", *(side["engine"] for side in sides), ""))
    rows += [*_speed_rows("short", result["short"]), *_speed_rows("long", result["long"])]
    rows.append(("load, s", *(f"{side['load_s']:.2f}" for side in sides), ""))
    whole = [side["import_s"] + side["load_s"] for side in sides]
    rows.append(("load with imports, s", *(f"{seconds:.2f}" for seconds in whole), ""))
    rows.append(("peak memory, MB", *(f"{side['peak_memory_mb']:.0f}" for side in sides), ""))
    for key in ("p50_ms", "p99_ms"):
        rows.append((f"one query, {key}", *(f"{side['query'][key]:.2f}" for side in sides), ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [" | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, _fidelity_line(result["fidelity"])])


def _fidelity_line(close: dict[str, float]) -> str:
    return (
        f"fidelity on {close['texts']} texts: cosine mean {close['cosine_mean']:.5f}, "
        f"min {close['cosine_min']:.5f}, top-10 overlap {close['top10_overlap']:.4f}"
    )


def _speed_rows(name: str, result: dict[str, Any]) -> list[tuple[str, ...]]:
    sides = [result["backline"], result["reference"]]
    low, high = result["ratio_range"]
    return [
        (
            f"{name} ({result['tokens_per_text']:.0f} tokens), texts/s",
            *(f"{side['texts_per_s']:.0f}" for side in sides),
            f"{result['ratio']:.2f} ({low:.2f} to {high:.2f})",
        ),
        (f"{name}, tokens/s", *(f"{side['tokens_per_s']:.0f}" for side in sides), ""),
        (
            f"{name}, share of peak f32 / bf16",
            *(
                f"{side['share_of_peak']['f32']:.2f} / {side['share_of_peak']['bf16']:.2f}"
                for side in sides
            ),
            f"{result['cpu_ratio']:.2f} by CPU time",
        ),
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference-python", help="interpreter that has sentence-transformers")
    parser.add_argument("--engine", default="auto", help="Backline's engine (default: auto)")
    parser.add_argument("--threads", type=int, help="for both sides (default: all processors)")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds (default: 5)")
    parser.add_argument("--short", type=int, default=1_000, help="short texts (default: 1000)")
    parser.add_argument("--long", type=int, default=120, help="long texts (default: 120)")
    parser.add_argument("--fidelity-texts", type=int, default=5_000, help="(default: 5000)")
    parser.add_argument("--corpus", type=Path, help="JSONL with text fields, for fidelity")
    parser.add_argument("--json", type=Path, help="write the whole result here")
    parser.add_argument("--serve", choices=("backline", "reference"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.serve:
        serve(BacklineSide(args) if args.serve == "backline" else ReferenceSide(args))
        return
    if not args.reference_python:
        raise SystemExit("--reference-python is required; see the docstring of this file.")
    from backline.embedders.local import pull

    args.weights = str(pull(MODEL))
    result = run(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
