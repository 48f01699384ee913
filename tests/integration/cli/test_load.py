"""`backline load`: every file format, and every kind of faulty file."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.integration.cli.conftest import Cli, Sql

GOOD = [{"id": i, "title": f"title {i}", "n": i / 2, "tags": ["a", i]} for i in range(1, 4)]


def write(cli: Cli, name: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    (cli.folder / name).write_bytes(data)
    return name


def lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_loading_jsonl_twice_changes_nothing(cli: Cli, sql: Sql) -> None:
    file = write(cli, "good.jsonl", lines(GOOD))
    first = cli("load", file, "--table", "notes", "--json").json
    assert (first["created"], first["inserted"], first["updated"]) == (True, 3, 0)
    again = cli("load", file, "--table", "notes")
    assert "Loaded 3 records into public.notes: 0 inserted, 0 updated, 3 unchanged." in again.out
    assert sql("select id, title, n, tags from notes where id = 2") == [
        (2, "title 2", 1.0, ["a", 2])
    ]


def test_a_changed_record_is_the_only_one_updated(cli: Cli, sql: Sql) -> None:
    cli("load", write(cli, "a.jsonl", lines(GOOD)), "--table", "notes")
    changed = [*GOOD[:2], {**GOOD[2], "title": "new"}, {**GOOD[0], "id": 9}]
    done = cli("load", write(cli, "b.jsonl", lines(changed)), "--table", "notes", "--json").json
    assert (done["inserted"], done["updated"]) == (1, 1)
    assert sql("select title from notes where id = 3") == [("new",)]


def test_csv_is_loaded_with_quotes_newlines_and_empty_fields(cli: Cli, sql: Sql) -> None:
    text = "x" * 200_000  # longer than the csv module's default limit
    with (cli.folder / "good.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(
            [["id", "title", "n"], [1, 'say "hi",\nthere', ""], [2, text, 2.5]]
        )
    cli("load", "good.csv", "--table", "notes")
    assert sql("select id, title, n from notes order by id") == [
        (1, 'say "hi",\nthere', None),
        (2, text, 2.5),
    ]


def test_parquet_is_loaded_with_its_types(cli: Cli, sql: Sql) -> None:
    table = pa.table({"id": [1, 2], "title": ["a", None], "day": pa.array([0, 1], pa.date32())})
    parquet.write_table(table, cli.folder / "good.parquet")
    assert cli("load", "good.parquet", "--table", "notes", "--json").json["inserted"] == 2
    assert sql("select title, day::text from notes order by id") == [
        ("a", "1970-01-01"),
        (None, "1970-01-02"),
    ]


def test_a_new_table_gets_a_key_if_the_file_has_none(cli: Cli, sql: Sql) -> None:
    cli("load", write(cli, "a.jsonl", lines([{"t": "a"}, {"t": "b"}])), "--table", "notes")
    assert sql("select id, t from notes order by id") == [(1, "a"), (2, "b")]


BAD: dict[str, tuple[str | bytes, str]] = {
    "malformed.jsonl": ('{"id":1}\n{"id" 2}\n', r"malformed\.jsonl, line 2 is not JSON"),
    "array.jsonl": ('[{"id":1},\n{"id":2}]\n', r"one object a line.*jq -c"),
    "scalar.jsonl": ('{"id":1}\n[1]\n', "line 2 is not a JSON object"),
    "latin.jsonl": (b'{"id":1}\n{"id":"\xe9"}\n', "line 2 is not UTF-8.*save it as UTF-8"),
    "twice.jsonl": ('{"id":1}\n{"id":2}\n{"id":1}\n', "key '1' 2 times"),
    "keyless.jsonl": ('{"id":1}\n{"id":null}\n', r"without the key 'id' \(1 of them\)"),
    "nul.jsonl": ('{"id":1,"t":"a\\u0000b"}\n', "record 1, field 't' holds a NUL"),
    "surrogate.jsonl": ('{"id":1,"t":"\\ud800"}\n', "record 1, field 't'.*surrogate"),
    "names.jsonl": ('{"id":1,"":2}\n', "field ''.*rename the field"),
    "empty.jsonl": ("", "holds no records"),
    "blank.jsonl": ("\n\n", "holds no records"),
    "long.csv": ("id,n\n1,2\n2,3,4\n", "line 3 has another number of fields.*2"),
    "short.csv": ("id,n\n1,2\n2\n", "line 3 has another number of fields"),
    "latin.csv": (b"id,n\n1,\xe9\n", "not UTF-8"),
    "header.csv": ("id,n\n", "holds no records"),
    "words.txt": ("words", r"of an unsupported kind.*\.jsonl.*\.csv.*\.parquet"),
    "fake.parquet": ("no parquet", "not readable as Parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_faulty_file_loads_no_record(cli: Cli, sql: Sql, name: str) -> None:
    content, pattern = BAD[name]
    output = cli("load", write(cli, name, content), "--table", "notes", "--json", code=2).json
    assert output["error"]["kind"] == "InputFileError"
    assert re.search(pattern, output["error"]["message"], re.DOTALL), output
    assert sql("select to_regclass('notes')") == [(None,)]


def test_a_missing_file_is_named(cli: Cli) -> None:
    assert (
        "There is no file nope.jsonl." in cli("load", "nope.jsonl", "--table", "notes", code=2).err
    )


TABLE = """
create table notes (
  id int primary key, title text not null, n int, kind text unique, check (n < 100)
)
"""


@pytest.mark.parametrize(
    ("records", "pattern"),
    [
        ([{"id": 1, "title": "a", "n": "many"}], "record 1, field 'n'.*integer.*many"),
        ([{"id": 1, "title": "a", "n": 1}, {"id": 2, "title": "a", "n": 2**40}], "record 2, f.*n"),
        ([{"id": 1, "title": None}], "title.*not-null"),
        ([{"id": 1, "title": "a", "n": 200}], "check constraint"),
        ([{"id": i, "title": "a", "kind": "k"} for i in (1, 2)], r"\(kind\)=\(k\)"),
        ([{"id": 1, "title": "a", "colour": "red"}], r"no column 'colour'.*id, title, n"),
    ],
)
def test_a_record_that_does_not_fit_the_table_is_named(
    cli: Cli, sql: Sql, records: list[dict[str, object]], pattern: str
) -> None:
    sql(TABLE)
    file = write(cli, "misfit.jsonl", lines(records))
    error = cli("load", file, "--table", "notes", "--json", code=2).json["error"]
    assert error["kind"] == "InputFileError"
    assert re.search(pattern, error["message"]), error
    assert error["message"].endswith("Nothing was loaded.")
    assert sql("select count(*) from notes") == [(0,)]


def test_a_type_that_changes_late_in_the_file_names_its_record(cli: Cli, sql: Sql) -> None:
    records: list[dict[str, object]] = [{"id": i, "n": i} for i in range(1500)]
    records[1400]["n"] = "many"
    error = cli("load", write(cli, "late.jsonl", lines(records)), "--table", "notes", code=2).err
    assert "record 1401, field 'n'" in error


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("--table nope.notes", "no schema 'nope'.*create schema"),
        ("--table my-table", "not a table name"),
        ("--table a.b.c", "too many parts"),
        ("--table shown", "not a table"),
        ("--table notes --key nope", "no field 'nope' to be the key. Fields: id, title, n, tags"),
    ],
)
def test_an_unsuitable_table_or_key_is_refused(
    cli: Cli, sql: Sql, arguments: str, pattern: str
) -> None:
    sql("create view shown as select 1 as id")
    file = write(cli, "good.jsonl", lines(GOOD))
    assert re.search(pattern, cli("load", file, *arguments.split(), code=2).err)


PEAK = """
import atexit, backline.cli, pathlib
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().partition("VmHWM:")[2].split()[0]))
backline.cli.main()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_use_does_not_depend_on_the_file_size(cli: Cli) -> None:
    """A file that is 40 MB larger takes less than 10 MB more memory."""

    def peak(rows: int) -> int:
        with (cli.folder / "big.jsonl").open("w") as file:
            file.writelines(f'{{"id":{i},"t":"{"x" * 2000}"}}\n' for i in range(rows))
        done = cli("-c", PEAK, "load", "big.jsonl", "--table", f"t{rows}", program=sys.executable)
        summary, _, kilobytes = done.out.strip().rpartition("\n")
        assert f"{rows:,} inserted" in summary
        return int(kilobytes)

    small, large = peak(2_000), peak(22_000)
    assert large - small < 10_000, (small, large)
