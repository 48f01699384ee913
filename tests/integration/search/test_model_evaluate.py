"""The command `model evaluate`, over two collections with hash vectors of one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from backline.cli.commands import app

WORDS = ("tuba", "oboe", "harp", "bell", "drum")


def call(database: str, *args: str, **environment: str) -> tuple[int, str]:
    env = {"DATABASE_URL": database, **environment}
    result = CliRunner().invoke(app, list(args), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return getattr(result.exception, "exit_code", 1), str(result.exception)
    return result.exit_code, result.stdout


def invoke(database: str, *args: str, **environment: str) -> Any:
    code, output = call(database, *args, "--json", **environment)
    assert code == 0, output
    return json.loads(output)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Judged queries over the rows."""
    queries = [{"_id": f"q{n}", "text": f"{WORDS[n]} {n}"} for n in range(5)]
    lines = "".join(json.dumps(query) + "\n" for query in queries)
    (tmp_path / "queries.jsonl").write_text(lines)
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"q{n}\t{n}\t2\nq{n}\t{n + 5}\t1\n" for n in range(5))
    (tmp_path / "qrels" / "test.tsv").write_text(judged)
    return tmp_path


@pytest.fixture
def collections(database: str, folder: Path) -> str:
    """A database with the filled collections docs and docs@next."""
    file = folder / "docs.jsonl"
    rows = [{"id": n, "title": f"Doc {n}", "body": f"{WORDS[n % 5]} {n}"} for n in range(25)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    invoke(database, "load", str(file), "--table", "docs")
    invoke(database, "add", "docs", "--text", "{body}", "--model", "hash@8")
    invoke(database, "backfill", "docs")
    invoke(database, "model", "change", "docs", "--to", "hash@16")
    return database


def evaluations(database: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        return connection.execute(
            "select collection, model_id <> candidate_model, result from backline.evaluations"
        ).fetchall()


def test_judged_queries_are_compared_and_the_result_is_stored(
    collections: str, folder: Path
) -> None:
    result = invoke(collections, "model", "evaluate", "docs", "--judged", str(folder))
    made_at = result.pop("made_at")
    assert made_at is not None
    [(name, differ, stored)] = evaluations(collections)
    assert (name, differ, stored) == ("docs", True, result)
    assert (result["source"], result["name"], result["queries"]) == ("judged", folder.name, 5)
    measured = invoke(collections, "eval", str(folder), "-c", "docs@next", "--mode", "semantic")
    semantic = result["modes"][0]
    assert semantic["ndcg"]["candidate"] == measured["results"][0]["ndcg@10"]


def test_report_shows_the_rows_of_both_side_by_side(collections: str, folder: Path) -> None:
    code, output = call(collections, "model", "evaluate", "docs", "--judged", str(folder))
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == "serving    docs, hash/hash (8 dimensions)"
    assert lines[1] == "candidate  docs@next, hash/hash (16 dimensions)"
    assert lines[2].startswith(f"5 queries, of {folder.name}")
    assert any(line.startswith("nDCG@10, semantic: ") for line in lines)
    at = next(n for n, line in enumerate(lines) if line.startswith("Moved most, semantic"))
    assert "rows in both, correlation 0." in lines[at + 1]
    assert lines[at + 2].count(" Doc ") == 2


def test_kept_queries_and_those_of_a_file_are_compared(collections: str, folder: Path) -> None:
    code, message = call(collections, "model", "evaluate", "docs")
    assert code == 2
    assert "BACKLINE_KEEP_QUERIES=true" in message and "--judged" in message
    invoke(collections, "search", "tuba 5", "-c", "docs", BACKLINE_KEEP_QUERIES="1")
    result = invoke(collections, "model", "evaluate", "docs")
    assert (result["source"], result["queries"]) == ("kept", 1)
    file = folder / "mine.txt"
    file.write_text("tuba\nbell 3\n")
    same = ("--with", "docs", "--queries", str(file))
    result = invoke(collections, "model", "evaluate", "docs", *same)
    assert (result["source"], result["name"], result["queries"]) == ("file", "mine.txt", 2)
    assert [mode["overlap"]["mean"] for mode in result["modes"]] == [1.0, 1.0]


def test_incomplete_candidate_needs_partial(collections: str, folder: Path) -> None:
    with psycopg.connect(collections) as connection:
        connection.execute("insert into docs (id, body) values (99, 'new')")
    judged = ("model", "evaluate", "docs", "--judged", str(folder))
    code, message = call(collections, *judged)
    assert (code, "25 of 26 rows" in message) == (2, True)
    code, output = call(collections, *judged, "--partial")
    assert code == 0
    assert "Only 25 of 26 rows" in output


def test_two_sources_of_queries_are_refused(collections: str, folder: Path) -> None:
    both = ("--judged", str(folder), "--queries", str(folder / "queries.jsonl"))
    code, message = call(collections, "model", "evaluate", "docs", *both)
    assert (code, "exclude each other" in message) == (2, True)


def test_read_only_database_is_compared_without_storing(collections: str, folder: Path) -> None:
    with psycopg.connect(collections, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"alter database {name} set default_transaction_read_only = on".encode())
    result = invoke(collections, "model", "evaluate", "docs", "--judged", str(folder))
    assert result["made_at"] is None
    assert result["queries"] == 5
    assert evaluations(collections) == []
