"""The readers of files: values keep the text of the file, and a fault is named with its place."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import sys
import threading
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from backline import errors, loading
from backline.loading.cells import Cell, Field, Literal, copy_text, sql_type
from backline.loading.dialect import Dialect
from backline.loading.readers import InputFile

NUMBERS = [
    "1.10", "12345678901234567.89", "0.1", "1e5", "1.50e3", "1.5e999", "9" * 400, "-0", "0",
    "9223372036854775807", "-1.0", "0.30000000000000004",
]  # fmt: skip


def rows(path: Path, **dialect: str) -> list[dict[str, Cell]]:
    with loading.open_file(path, Dialect(**dialect)) as file:
        return [dict(record.cells) for record in file.records()]


def file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def detected(path: Path, **dialect: str) -> Dialect:
    with loading.open_file(path, Dialect(**dialect)) as opened:
        return opened.dialect


def refusal(path: Path, **dialect: str) -> str:
    with pytest.raises(errors.InputFileError) as caught:
        rows(path, **dialect)
    return str(caught.value)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", "id,v\n1,{}\n"),
        ("a.tsv", "id\tv\n1\t{}\n"),
        ("a.jsonl", '{{"id":1,"v":{}}}\n'),
        ("a.json", '[{{"id":1, "v" : {} }}]'),
    ],
)
def test_a_number_keeps_its_digits(tmp_path: Path, name: str, form: str, number: str) -> None:
    if name.startswith("a.json") and number == "-0":
        number = "-0.0"
    assert rows(file(tmp_path, name, form.format(number)))[0]["v"] == number


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON, min_size=1), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_json_values_keep_their_spelling(tmp_path_factory: Any, records: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("json")
    spelled = [{k: json.dumps(v, indent=1) for k, v in record.items()} for record in records]
    objects = ["{" + ",".join(f'"{k}": {v}' for k, v in record.items()) + "}" for record in spelled]
    expected = [
        {k: v if isinstance(v, str | None) else s[k] for k, v in r.items()}
        for r, s in zip(records, spelled, strict=True)
    ]
    for name, text in (
        ("a.jsonl", "\n".join(objects)),
        ("a.json", f"[{', '.join(objects)}]\n"),
        ("b.json", "\n\n".join(objects)),
    ):
        (folder / name).write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
        with suppress(UnicodeEncodeError):
            text.encode()
            assert rows(folder / name) == expected


@given(
    st.lists(
        st.tuples(
            *[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))] * 2
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_csv_fields_are_what_they_were(
    tmp_path_factory: Any, values: list[tuple[str, str]], delimiter: str, end: str, bare: bool
) -> None:
    def spelled(value: str) -> str:
        plain = bare and value and not any(c in value for c in '"\r\n' + delimiter)
        return value if plain else '"' + value.replace('"', '""') + '"'

    lines = [f"a{delimiter}b", *(delimiter.join(map(spelled, pair)) for pair in values)]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes((end.join(lines) + end).encode())
    assert rows(path, delimiter=delimiter) == [{"a": a, "b": b} for a, b in values]


def test_an_empty_field_is_null_and_a_quoted_one_is_empty(tmp_path: Path) -> None:
    text = 'a,b,c,d\n,"",x,""\n"","say ""hi"", or """,,\n"a\nb",,"",\n'
    assert [list(row.values()) for row in rows(file(tmp_path, "a.csv", text))] == [
        [None, "", "x", ""],
        ["", 'say "hi", or "', None, None],
        ["a\nb", None, "", None],
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_detected(tmp_path: Path, encoding: str, end: str) -> None:
    text = end.join(["id,title", '1,"Größe, 日本"', "2,plain text", "3,ß", ""])
    path = file(tmp_path, "a.csv", text.encode(encoding))
    assert [row["title"] for row in rows(path)] == ["Größe, 日本", "plain text", "ß"]
    assert (detected(path).encoding or "").replace("-sig", "") == encoding.replace("-sig", "")
    lines = file(tmp_path, "a.jsonl", '{"t":"Größe"}\n{"t":"b"}\n'.encode(encoding))
    assert rows(lines) == [{"t": "Größe"}, {"t": "b"}]


def test_western_csv_is_windows_1252_and_other_bytes_are_not_guessed(tmp_path: Path) -> None:
    western = "id;name\n1;Café “Müller” costs 5 €\n2;plain\n".encode("windows-1252")
    path = file(tmp_path, "a.csv", western)
    assert detected(path) == Dialect("csv", ";", '"', "windows-1252", "none")
    assert rows(path)[0]["name"] == "Café “Müller” costs 5 €"
    russian = file(tmp_path, "b.csv", "id;name\n1;Привет всем\n".encode("windows-1251"))
    assert "b.csv, line 2 is not UTF-8" in refusal(russian)
    assert rows(russian, encoding="windows-1251")[0]["name"] == "Привет всем"
    damaged = file(tmp_path, "c.csv", "id,name\n1,Müller\n".encode() + b"2,Caf\xe9 and more\n")
    assert "line 3 is not UTF-8" in refusal(damaged)
    assert "line 1 is not UTF-8" in refusal(file(tmp_path, "d.jsonl", b'{"name":"Caf\xe9 x"}\n'))


def test_an_encoding_that_the_file_breaks_is_named(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", b"id,n\n1,a\n2,\xff\n")
    assert "not ascii after line" in refusal(path, encoding="ascii")


@pytest.mark.parametrize(
    ("text", "delimiter", "width"),
    [
        ("id;title\n1;a\n", ";", 2),
        ("id;title;n\n1;a, b, c;2\n2;d, e;3\n", ";", 3),
        ("id\ttitle\n1\ta;b\n", "\t", 2),
        ("id|title\n1|a,b\n", "|", 2),
        ("title\nplain\n", ",", 1),
        ("id,title\n1,a;b\n2,c;d\n", ",", 2),
        ('"a;b",c\n1,2\n', ",", 2),
        ("id;title\n", ";", 2),
    ],
)
def test_the_delimiter_is_detected(tmp_path: Path, text: str, delimiter: str, width: int) -> None:
    path = file(tmp_path, "a.csv", text)
    assert detected(path).delimiter == delimiter
    assert all(len(row) == width for row in rows(path))


def test_delimiter_and_quote_can_be_given(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "id~t\n1~'a~b'\n")
    assert rows(path, delimiter="~", quote="'") == [{"id": "1", "t": "a~b"}]
    assert rows(file(tmp_path, "b.csv", 'id,t\n1,5" pipe\n2,"x\n'), quote="") == [
        {"id": "1", "t": '5" pipe'},
        {"id": "2", "t": '"x'},
    ]


FAULTS: dict[str, tuple[str, str]] = {
    "open.csv": ('id,t\n1,a\n2,"b\n3,c\n4,d\n', "line 3, column 2: a quote is opened and never"),
    "late.csv": ('id,t\n1,"a\n2,"b"\n', "line 2, column 2: text follows a closing quote"),
    "long.csv": ("id,t\n1,2,3\n", "line 2 has another number of fields (3) than the header (2)"),
    "short.csv": ('id,t\n1,"x\ny"\n2\n', "line 4 has another number of fields (1)"),
    "twice.csv": ("id,t, t\n1,2,3\n", "line 1, column 3 has the name of column 2, 't'"),
    "unnamed.csv": ("id,,t\n1,2,3\n", "line 1, column 2 has no name"),
    "twice.jsonl": ('{"a":1}\n{"a":1,"b":2,"a":3}\n', "line 2, column 1: the record has the name"),
    "spaced.jsonl": ('{"a":1," a":2}\n', "the record has the name 'a' twice"),
    "nested.jsonl": ('{"a":1}\n{"a":{"x":[{"y":1,"y":2}]}}', "line 2, column 6: the value has the"),
    "deep.jsonl": ('{"a":1}\n{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "line 2, column 1: the"),
    "deep.json": ("[" * 100_000, "nested too deeply"),
    "open.json": ('[{"a":1},\n{"a":2}\n', "line 3, column 1: expected ',' or ']'"),
    "more.json": ('[{"a":1}]\n{"a":2}\n', "line 2, column 1: the file goes on"),
    "cut.json": ('[{"a":1},\n{"a":"2', "line 2 is not JSON: Unterminated string"),
    "comma.jsonl": ('{"a":1},\n{"a":2}\n', "line 1 is not JSON"),
    "word.jsonl": ('{"a":1}\n{"a":nul}\n', "line 2 is not JSON: Expecting value at column 6"),
    "list.jsonl": ('{"a":1}\n[1]\n', "line 2 is not a JSON object"),
    "empty.jsonl": ('{"a":1}\n{}\n', "line 2 is not a JSON object"),
    "text.jsonl": ('{"a":1}\n"x"\n', "line 2 is not a JSON object"),
    "half.jsonl": ('{"a":1}\n{"a":"\n"}', "line 2 is not JSON: Invalid control character"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    content, message = FAULTS[name]
    refused = refusal(file(tmp_path, name, content))
    assert message in refused and "Nothing was loaded" in refused


def test_records_longer_than_the_buffer_are_read(tmp_path: Path) -> None:
    records = [{"i": i, "t": "ü\\n" * n} for i, n in enumerate((1, 70_000, 5, 30_000, 65_536))]
    for indent in (None, 2):
        text = "\n".join(json.dumps(record, indent=indent) for record in records)
        assert [row["t"] for row in rows(file(tmp_path, "a.jsonl", text))] == [
            record["t"] for record in records
        ]


def test_the_line_of_each_record_is_known(tmp_path: Path) -> None:
    with loading.open_file(
        file(tmp_path, "a.json", '[\n{"a":\n1},{"a":2},\n\n{"a":3}]'), Dialect()
    ) as f:
        assert [record.line for record in f.records()] == [2, 3, 5]
    with loading.open_file(file(tmp_path, "a.csv", 'a,b\n1,"\n\n"\n\n2,x\n'), Dialect()) as f:
        assert [record.line for record in f.records()] == [2, 6]
        assert f.place(2) == "line 6"


def test_reader_is_lazy(tmp_path: Path) -> None:
    """The last line is malformed, and the first ones are read before it."""
    path = file(tmp_path, "a.jsonl", '{"a": 1}\n' * 10 + "broken\n")
    with loading.open_file(path, Dialect()) as opened:
        reader = opened.records()
        assert len(list(itertools.islice(reader, 10))) == 10
        with pytest.raises(errors.InputFileError, match="line 11 is not JSON"):
            next(reader)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_compression_is_told_by_the_content(tmp_path: Path, name: str, suffix: str) -> None:
    contents = {"a.csv": b"id,t\n1,a\n", "a.jsonl": b'{"id":1,"t":"a"}'}
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"id": [1], "t": ["a"]}), buffer)
    data = contents.get(name, buffer.getvalue())
    for compression, compress in (
        ("none", bytes), ("gzip", gzip.compress), ("zstd", zstd.compress),
    ):  # fmt: skip
        path = file(tmp_path, name + suffix, compress(data))
        assert rows(path) == [{"id": "1", "t": "a"}]
        assert detected(path).compression == compression


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path, compress: Any) -> None:
    data = compress(b"id,t\n" + b"".join(b"%d,%d\n" % (i, i * 7919) for i in range(50_000)))
    assert "is damaged or cut off" in refusal(file(tmp_path, "a.csv.gz", data[:-20]))
    several = compress(b"id,t\n1,a\n") + compress(b"2,b\n")
    assert len(rows(file(tmp_path, "b.csv.gz", several))) == 2


@pytest.mark.parametrize(
    ("content", "kind"), [(b"PK\x03\x04.", ".xlsx"), (b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0", "xz")]
)
def test_other_compressions_are_named(tmp_path: Path, content: bytes, kind: str) -> None:
    assert kind in refusal(file(tmp_path, "a.csv", content))


@pytest.mark.parametrize("change", ["shrink", "grow", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    lines = [f'{{"i":{i},"t":"{"x" * 50}"}}\n' for i in range(5000)]
    path = file(tmp_path, "a.jsonl", "".join(lines))
    with loading.open_file(path, Dialect()) as opened:
        reader = opened.records()
        next(reader)
        with path.open("r+") as edited:
            if change == "shrink":
                edited.truncate(len("".join(lines[:4000])))
            elif change == "grow":
                edited.seek(0, io.SEEK_END)
                edited.write(lines[0])
            else:
                edited.write('{"i":9')
        with pytest.raises(errors.InputFileError, match="changed while it was read"):
            list(reader)


def test_a_folder_a_missing_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder. Name a file in it" in refusal(tmp_path / "folder.csv")
    assert "There is no file" in refusal(tmp_path / "nope.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert "cannot be read: Too many levels" in refusal(tmp_path / "loop.csv")
    assert "cannot be read: File name too long" in refusal(tmp_path / f"{'x' * 300}.csv")


@pytest.mark.parametrize(
    "content", [b"id,t\n1,a\n", b'{"id":1,"t":"a"}\n', gzip.compress(b"id,t\n1,a", mtime=0)]
)
def test_a_pipe_and_standard_input_are_read_like_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [tuple(r.values()) for r in rows(Path("-"))] == [("1", "a")]
    kind = "json" if content[:1] == b"{" else "csv"
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content)).start()
    assert rows(tmp_path / "pipe", format=kind) == [{"id": "1", "t": "a"}]


@pytest.mark.parametrize("name", ["a.txt", "a", "a.xlsx", "a.txt.gz"])
def test_unsupported_file_lists_the_supported_kinds(tmp_path: Path, name: str) -> None:
    path = file(tmp_path, name, "id\n1\n")
    assert ".csv, .tsv, .tab, .json, .jsonl" in refusal(path)
    assert rows(path, format="csv") == [{"id": "1"}]


@pytest.mark.parametrize(
    "dialect",
    [
        {"format": "xlsx"}, {"delimiter": ";;"}, {"delimiter": ""}, {"delimiter": "\n"},
        {"quote": "ab"}, {"quote": ";", "delimiter": ";"}, {"encoding": "nope"},
        {"encoding": "base64"}, {"compression": "rar"},
    ],
)  # fmt: skip
def test_a_dialect_that_no_file_has_is_refused(tmp_path: Path, dialect: dict[str, str]) -> None:
    with pytest.raises(errors.UsageError):
        rows(file(tmp_path, "a.csv", "id\n1\n"), **dialect)


def test_progress_counts_the_bytes_on_the_disk(tmp_path: Path) -> None:
    data = gzip.compress(b"id,t\n" + b"1,a\n" * 300_000, mtime=0)
    path = file(tmp_path, "a.csv", data)
    seen: list[tuple[int, int]] = []
    with loading.open_file(path, Dialect()) as opened:
        assert sum(1 for _ in opened.records(lambda *now: seen.append(now))) == 300_000
    assert seen == sorted(seen) and seen[-1] == (len(data), len(data))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (map(Field, ["1", "20"]), "bigint"),
        (map(Field, ["1", "1.10"]), "numeric"),
        (map(Field, ["1", "1.10", "x"]), "text"),
        (map(Field, ["007"]), "text"),  # a leading zero is part of a code, not of a number
        (map(Field, ["1e5"]), "text"),
        (map(Field, ["9" * 19]), "numeric"),
        (map(Field, ["٣"]), "text"),
        (map(Field, ["true"]), "text"),
        ([Field("")], "text"),
        ([None], "text"),
        (map(Literal, ["true", "false"]), "boolean"),
        (map(Literal, ["1", "1e5", "NaN"]), "numeric"),
        (map(Literal, ["1", "true"]), "text"),
        ([Literal("1"), "x"], "text"),
        ([Literal("[1]"), "x"], "jsonb"),
    ],
)
def test_a_new_column_has_a_type_that_holds_every_value(cells: Any, expected: str) -> None:
    assert sql_type(cells) == expected


@pytest.mark.parametrize(
    ("cell", "kind", "expected"),
    [
        (Field(""), "other", None),
        (Field(""), "text", ""),
        ("", "other", ""),
        (Literal("true"), "text", "true"),
        (Field('{"a":1.10}'), "json", '{"a":1.10}'),
        (Literal('{"a":1.10}'), "json", '{"a":1.10}'),
        ('say "hi"', "json", '"say \\"hi\\""'),
        (Literal('[1.10, null, "a\\"\\\\,b", true]'), "array", r'{"1.10",NULL,"a\"\\,b","true"}'),
        (Literal("[[1],[2]]"), "array", '{{"1"},{"2"}}'),
        (Field("{1,2}"), "array", "{1,2}"),
        (Field("[1,2]"), "array", '{"1","2"}'),
        (Field("[0:1]={1,2}"), "array", "[0:1]={1,2}"),
        (Literal("[1.10]"), "other", "[1.10]"),
    ],
)
def test_copy_takes_the_text_of_the_file(cell: Cell, kind: str, expected: str | None) -> None:
    assert copy_text(cell, kind) == expected


def read_parquet(tmp_path: Path, table: pa.Table) -> tuple[list[dict[str, Cell]], dict[str, str]]:
    parquet.write_table(table, tmp_path / "a.parquet")
    with loading.open_file(tmp_path / "a.parquet", Dialect()) as opened:
        assert isinstance(opened, InputFile)
        return [dict(record.cells) for record in opened.records()], opened.types


def test_parquet_keeps_values_and_types(tmp_path: Path) -> None:
    columns: dict[str, tuple[Any, str, str]] = {
        "i": (pa.array([2**62 + 1]), str(2**62 + 1), "bigint"),
        "u": (pa.array([2**64 - 1], pa.uint64()), str(2**64 - 1), "numeric"),
        "f": (pa.array([0.1], pa.float32()), "0.1", "real"),
        "d": (pa.array([1e300]), "1e+300", "double precision"),
        "n": (pa.array([Decimal("1.10")]), "1.10", "numeric"),
        "b": (pa.array([True]), "true", "boolean"),
        "y": (pa.array([b"\0\xff"]), "\\x00ff", "bytea"),
        "day": (pa.array([2932897], pa.date32()), "10000-01-01", "date"),
        "bc": (pa.array([-800000], pa.date32()), "0222-09-04 BC", "date"),
        "t": (
            pa.array([253402300800_000001], pa.timestamp("us")),
            "10000-01-01 00:00:00.000001",
            "timestamp",
        ),
        "z": (
            pa.array([1], pa.timestamp("ns", "Europe/Berlin")),
            "1970-01-01 00:00:00.000000001Z",
            "timestamptz",
        ),
        "l": (pa.array([[1.5, 2]]), "[1.5, 2.0]", "jsonb"),
        "s": (pa.array([{"x": [1], "day": 1}]), '{"x": [1], "day": 1}', "jsonb"),
        "c": (pa.array(["red"]).dictionary_encode(), "red", "text"),
    }
    [row], types = read_parquet(tmp_path, pa.table({k: v[0] for k, v in columns.items()}))
    assert row == {k: v[1] for k, v in columns.items()}
    assert types == {k: v[2] for k, v in columns.items()}


def test_parquet_faults_are_named(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    parquet.write_table(twice, tmp_path / "a.parquet")
    assert "has the column 'a' twice" in refusal(tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    assert "not readable as Parquet" in refusal(file(tmp_path, "b.parquet", data[:-9]))


def test_unchanged_is_the_remainder_of_the_records() -> None:
    done = loading.Loaded("t", created=False, records=10, inserted=3, updated=2)
    assert done.unchanged == 5
