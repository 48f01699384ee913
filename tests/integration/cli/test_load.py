"""`backline load`: every file format, and every kind of faulty file."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import string
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.integration.cli.conftest import BACKLINE, Cli, Sql

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
    "deep.jsonl": ('{"id":1,"t":' + "[" * 9999 + "]" * 9999 + "}", "line 1, .*nested too deeply"),
    "twice.jsonl": ('{"id":1}\n{"id":2}\n{"id":1}\n', "key '1' 2 times, the last at line 3"),
    "keyless.jsonl": ('{"id":1}\n{"id":null}\n', r"the key 'id' \(1 of them, .* line 2\)"),
    "nul.jsonl": ('{"id":1,"t":"a\\u0000b"}\n', "line 1, field 't' holds a NUL"),
    "nested.jsonl": ('{"id":1,"t":["\\u0000"]}\n', "line 1, field 't', does not fit .*Unicode"),
    "surrogate.jsonl": ('{"id":1,"t":"\\ud800"}\n', "line 1, field 't'.*surrogate"),
    "names.jsonl": ('{"id":1,"":2}\n', "field ''.*rename the field"),
    "cases.jsonl": ('{"id":1,"ID":2}\n', "fields 'id' and 'ID', which are one column"),
    "empty.jsonl": ("", "holds no records"),
    "blank.jsonl": ("\n\n", "holds no records"),
    "header.csv": ("id,n\n", "holds no records"),
    "open.csv": ('id,n\n1,"2\n2,3\n', "line 2, column 2: a quote is opened and never closed"),
    "words.txt": ("words", r"of an unsupported kind.*\.csv.*\.jsonl.*\.parquet"),
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


LONG = "".join(random.Random(1).choices(string.printable[:62], k=9000))
"""A text that is too long for an index, also compressed."""

TABLE = """
create table notes (
  id int primary key, title text not null, n int, kind text unique, check (n < 100)
)
"""


@pytest.mark.parametrize(
    ("records", "pattern"),
    [
        ([{"id": 1, "title": "a", "n": "many"}], "line 1, field 'n', .*integer.*many"),
        (
            [{"id": 1, "title": "a", "n": 1}, {"id": 2, "title": "a", "n": 2**40}],
            "line 2, field 'n'",
        ),
        (
            [{"id": i, "title": "a" if i != 7 else None} for i in range(9)],
            "line 8, field 'title', .*not-null",
        ),
        (
            [{"id": i, "title": "a", "n": 95 + i} for i in range(9)],
            "line 6 does not fit .*check constraint",
        ),
        (
            [{"id": i, "title": "a", "kind": f"k{i % 8}"} for i in range(9)],
            r"line 9 does not fit .*\(kind\)=\(k0\)",
        ),
        (
            [{"id": i, "title": "a", "kind": LONG if i == 3 else None} for i in range(5)],
            "line 4 does not fit .*index row",
        ),
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
    assert "line 1401, field 'n'" in error


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("--table nope.notes", "no schema 'nope'.*create schema"),
        ("--table my-table", "not a table name"),
        ("--table a.b.c", "too many parts"),
        ("--table shown", "not a table"),
        ("--table notes --key nope", "no field 'nope' to be the key. Fields: id, title, n, tags"),
        ("--table notes --vectors title", "None of the first records .* has a list"),
        ("--table notes --delimiter ab", "delimiter is 'ab'"),
        ("--table notes --encoding nope", "no encoding 'nope'"),
    ],
)
def test_an_unsuitable_table_or_key_is_refused(
    cli: Cli, sql: Sql, arguments: str, pattern: str
) -> None:
    sql("create view shown as select 1 as id")
    file = write(cli, "good.jsonl", lines(GOOD))
    assert re.search(pattern, cli("load", file, *arguments.split(), code=2).err)


def test_standard_input_is_loaded_and_the_dialect_is_named(cli: Cli, sql: Sql) -> None:
    (cli.folder / "in.csv").write_bytes("id;name\n1;Café Müller\n".encode("windows-1252"))
    script = 'cat in.csv | "$0" load - --table notes'
    done = cli("-c", script, BACKLINE, program="/bin/sh")
    assert "Standard input: CSV, ';', windows-1252" in done.err
    assert sql("select id, name from notes") == [(1, "Café Müller")]


def test_a_load_without_a_key_says_that_it_adds(cli: Cli, sql: Sql) -> None:
    file = write(cli, "a.csv", "name\na\nb\n")
    for _ in range(2):
        assert "another load adds all again" in cli("load", file, "--table", "notes").err
    assert sql("select count(*) from notes") == [(4,)]


def test_bytes_are_shown_on_a_terminal_only(cli: Cli) -> None:
    file = write(cli, "a.csv", "id,t\n" + "".join(f"{i},{'x' * 60}\n" for i in range(60_000)))
    assert "MB" not in cli("load", file, "--table", "notes").err
    controller, terminal = os.openpty()
    environment = {**os.environ, **cli.environment, "TERM": "xterm", "COLUMNS": "100"}
    command = [BACKLINE, "load", file, "--table", "notes"]
    with subprocess.Popen(command, cwd=cli.folder, env=environment, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the terminal ends with the process
            while part := os.read(controller, 65536):
                shown += part
        assert process.wait(60) == 0
    os.close(controller)
    assert re.search(rb"/4\.\d MB", shown), shown[-500:]


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
