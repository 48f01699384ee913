"""search, suggest, index and eval as commands, over a collection with hash vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backline import errors
from backline.cli.commands import app

CORPUS = [("d1", "Tuba", "A brass instrument."), ("d2", "Oboe", "A reed instrument.")] + [
    (f"x{n}", f"Filler {n}", "Nothing to see.") for n in range(20)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder of two queries."""
    (tmp_path / "qrels").mkdir()
    rows = [{"_id": key, "title": title, "text": text} for key, title, text in CORPUS]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "which brass do tubas use"}\n{"_id": "q2", "text": "oboe"}\n'
    )
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td1\t1\n"
    )
    return tmp_path


def invoke(database: str, *args: str) -> Any:
    """Run a command; return its JSON or raise its exception."""
    result = CliRunner().invoke(app, [*args, "--json"], env={"DATABASE_URL": database})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def kept(database: str, folder: Path) -> str:
    """A database with the corpus of an evaluation; `name` returns the collection's name."""
    invoke(database, "eval", str(folder), "--model", "hash@16", "--keep", "--mode", "keyword")
    return database


def name(folder: Path) -> str:
    return f"eval_{folder.name}"


def test_eval_measures_and_drops_its_corpus(database: str, folder: Path) -> None:
    compare = ("--model", "hash@16", "--compare", "keyword", "semantic")
    result = invoke(database, "eval", str(folder), *compare)
    keyword, semantic = result["results"]
    assert (keyword["mode"], semantic["mode"]) == ("keyword", "semantic")
    # q1 finds d1 first; q2 finds d2 first and misses d1: (1 + 2 / (2 + 1 / log2 3)) / 2.
    assert keyword["ndcg@10"] == pytest.approx((1 + 2 / 2.6309) / 2, abs=1e-4)
    assert (keyword["recall@100"], keyword["mrr@10"], keyword["first_relevant"]) == (0.75, 1, 1)
    assert result["comparison"]["difference"] == pytest.approx(
        keyword["ndcg@10"] - semantic["ndcg@10"], abs=1e-4
    )
    with pytest.raises(errors.CollectionNotFoundError):
        invoke(database, "search", "tuba", "-c", name(folder))


def test_search_in_every_mode_with_a_condition(kept: str, folder: Path) -> None:
    for mode in ("hybrid", "semantic", "keyword"):
        result = invoke(
            kept,
            "search",
            "brass tuba",
            "-c",
            name(folder),
            "--mode",
            mode,
            "--where",
            "title = 'Tuba'",
        )
        [hit] = result["hits"]
        assert hit["key"] == "d1"
        assert hit["row"]["title"] == "Tuba"
    assert hit["snippet"] == "<mark>Tuba</mark> A <mark>brass</mark> instrument"
    page = ("--mode", "keyword", "--offset", "1")
    again = invoke(kept, "search", "instrument", "-c", name(folder), *page)
    assert len(again["hits"]) == 1


def test_hits_are_printed_for_people(kept: str, folder: Path) -> None:
    result = CliRunner().invoke(
        app, ["search", "tuba", "-c", name(folder), "--mode", "keyword"], env={"DATABASE_URL": kept}
    )
    assert result.stdout.splitlines()[1].startswith("1. Tuba")
    assert "Tuba A brass instrument." in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mode", "fuzzy"], "hybrid, semantic, keyword"),
        (["--where", "title ="], "character 8"),
        (["--where", "colour = 1"], "Its columns: _id, title, text"),
    ],
)
def test_invalid_arguments_are_rejected(
    kept: str, folder: Path, args: list[str], message: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        invoke(kept, "search", "tuba", "-c", name(folder), *args)


def test_index_reports_and_changes_keyword_settings(kept: str, folder: Path) -> None:
    result = invoke(kept, "index", name(folder), "--check", "5")
    assert result["vectors"]["state"] == "not needed"
    assert result["keywords"]["documents"] == len(CORPUS)
    assert result["recall"] == {"queries": 5, "k": 10, "mean": 1.0, "worst": 1.0}
    changed = invoke(kept, "index", name(folder), "--keywords", "{title}", "--language", "simple")
    assert changed["keywords"]["text_template"] == "{title}"
    assert invoke(kept, "search", "brass", "-c", name(folder), "--mode", "keyword")["hits"] == []


def test_search_of_a_large_table_leaves_its_words_to_workers(database: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"id": {n}, "body": "tuba {n}"}}\n' for n in range(1, 1500)))
    invoke(database, "load", str(file), "--table", "big")
    invoke(database, "add", "big", "--text", "{body}", "--model", "hash@8")
    assert invoke(database, "search", "777", "-c", "big", "--mode", "keyword")["hits"] == []
    invoke(database, "backfill", "big")
    result = invoke(database, "search", "777", "-c", "big", "--mode", "keyword")
    assert [hit["key"] for hit in result["hits"]] == ["777"]


def test_suggest_reports_that_nothing_is_known(kept: str, folder: Path) -> None:
    result = invoke(kept, "suggest", "asdf qwer", "-c", name(folder))
    assert result["known"] is False
    assert result["message"] == "Nothing relevant is known about this."
    assert result["suggestions"] == []
