"""The readers of files: records come one after another, typed as they plainly are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from backline import errors, loading


def records(tmp_path: Path, name: str, content: str) -> list[dict[str, object]]:
    (tmp_path / name).write_text(content, encoding="utf-8")
    return [dict(record) for record in loading.read(tmp_path / name)]


def test_jsonl_skips_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    assert records(tmp_path, "a.jsonl", '\ufeff{"a": 1}\n\n{"a": "ü"}') == [{"a": 1}, {"a": "ü"}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("0", 0),
        ("007", "007"),  # a leading zero is part of a code, not of a number
        ("1.50", 1.5),
        ("1e5", "1e5"),
        ("1.0e5", 1e5),
        ("", None),
        ("+49 30", "+49 30"),
        ("9" * 19, "9" * 19),  # larger than a bigint
        (" 7", " 7"),
        ("true", "true"),
    ],
)
def test_csv_fields_become_numbers_null_or_text(tmp_path: Path, text: str, value: object) -> None:
    assert records(tmp_path, "a.csv", f"id,v\n1,{text}\n") == [{"id": 1, "v": value}]


def test_csv_accepts_a_byte_order_mark_and_quoted_newlines(tmp_path: Path) -> None:
    rows = records(tmp_path, "a.csv", '\ufeffid,t\r\n1,"a ""b""\r\nc"\r\n')
    assert rows == [{"id": 1, "t": 'a "b"\r\nc'}]


def test_reader_is_lazy(tmp_path: Path) -> None:
    """The last line is malformed, and the first ones are read before it."""
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n' * 10 + "broken\n")
    reader = loading.read(tmp_path / "a.jsonl")
    assert list(itertools.islice(reader, 10)) == [{"a": 1}] * 10
    with pytest.raises(errors.InputFileError, match="line 11 is not JSON"):
        next(reader)


def test_large_integers_keep_their_digits(tmp_path: Path) -> None:
    number = 2**62 + 1
    assert records(tmp_path, "a.jsonl", json.dumps({"n": number})) == [{"n": number}]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.json", "a.jsonl.gz"])
def test_unsupported_file_lists_the_supported_kinds(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.InputFileError, match=r"\.jsonl, \.ndjson, \.csv, \.parquet"):
        loading.read(tmp_path / name)


def test_unchanged_is_the_remainder_of_the_records() -> None:
    done = loading.Loaded("t", created=False, records=10, inserted=3, updated=2)
    assert done.unchanged == 5
