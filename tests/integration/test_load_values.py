"""What stands in a file is what stands in the table, for every format and type of column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from backline import errors, loading
from backline.loading.dialect import Dialect
from backline.postgres.store import Store

SPELLED: dict[str, tuple[str, list[str], list[str]]] = {
    # type: spellings that come back as they are, and spellings that it refuses
    "text": (
        "text",
        ["1.10", "007", "true", "1.5e999", " a ", "10000-01-01", "NaN", "1" * 400],
        [],
    ),
    "varchar": ("varchar(3)", ["1.0", "abc"], ["abcd"]),
    "numeric": ("numeric", ["1.10", "12345678901234567.89", "9" * 400, "NaN", "Infinity"], ["x"]),
    "price": ("numeric(6,2)", ["1.10"], ["99999"]),
    "int": ("int", ["7", "-7"], ["2147483648", "1.5", "x", ""]),
    "float8": ("float8", ["0.1", "1e+300", "NaN", "-Infinity"], ["1.5e999", "x"]),
    "bool": ("boolean", ["true", "false"], ["maybe"]),
    "json": ("json", ['{"a":1.10,  "b":[1e400]}', "12345678901234567.89", "true"], ["{a:1}"]),
    "jsonb": ("jsonb", ['{"a": 1.10}', "[12345678901234567.89]"], ["[1,]"]),
    "time": ("timestamptz", ["10000-01-01 00:00:00+00", "0044-03-15 00:00:00+00 BC"], ["soon"]),
    "uuid": ("uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], ["a0ee"]),
    "ints": ("int[]", ["{1,2,NULL}", "{{1},{2}}"], ["{x}"]),
    "texts": ("text[]", ['{"a,b",c}'], ["{a"]),
    "vector": ("extensions.vector(2)", ["[0.1,0.2]"], ["[1]", "[1,NaN]"]),
    "domain": ("positive", ["7"], ["-7"]),
}


async def loaded(store: Store, path: Path, **options: Any) -> loading.Loaded:
    return await loading.load(store, path, "values_", **options)


def write(tmp_path: Path, format_: str, column: str, values: list[str]) -> Path:
    """Write strings as the fields of CSV or TSV, as JSON strings, or as Parquet."""
    path = tmp_path / f"a.{format_}"
    records: list[dict[str, Any]] = [{"id": i, column: value} for i, value in enumerate(values)]
    if format_ in ("csv", "tsv"):
        mark = "," if format_ == "csv" else "\t"
        quoted = [f'{r["id"]}{mark}"{r[column].replace(chr(34), chr(34) * 2)}"' for r in records]
        path.write_text("\r\n".join([f"id{mark}{column}", *quoted]))
    elif format_ == "parquet":
        parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        text = [json.dumps(record) for record in records]
        path.write_text("\n".join(text) if format_ == "jsonl" else "[" + ",\n".join(text) + "]")
    return path


async def make_table(store: Store, column: str) -> None:
    await store.connector.execute("create domain positive as int check (value > 0)")
    await store.connector.execute(
        f"create table values_ (id int primary key, {column} {SPELLED[column][0]})"
    )


@pytest.mark.parametrize("column", SPELLED)
async def test_the_type_of_the_column_reads_the_text(
    store: Store, tmp_path: Path, column: str
) -> None:
    kind, good, bad = SPELLED[column]
    await make_table(store, column)
    for format_ in ("csv", "tsv", "json", "jsonl", "parquet"):
        await store.connector.execute("truncate values_")
        path = write(tmp_path, format_, column, good)
        assert (await loaded(store, path)).inserted == len(good)
        rows = await _texts(store, column)
        is_json = kind.startswith("json") and format_ not in ("csv", "tsv")
        assert rows == [json.dumps(value) if is_json else value for value in good]
        assert (await loaded(store, path)).unchanged == len(good)
        for value in [] if is_json else bad:
            if value == "" and format_ in ("csv", "tsv"):
                continue  # an empty field is NULL
            path = write(tmp_path, format_, column, [good[0], value])
            with pytest.raises(errors.InputFileError, match=f"(line|record) [23].*'{column}'"):
                await loaded(store, path)
        assert await _texts(store, column) == rows


async def _texts(store: Store, column: str) -> list[str]:
    async with store.connector.transaction() as transaction:
        await transaction.execute("set local timezone to 'UTC'")
        rows = await transaction.fetch(f"select {column}::text as v from values_ order by id")
    return [row["v"] for row in rows]


JSON_VALUES = {
    "text": ["1.10", "true", "1.5e999", '{"a": 1.10}', "12345678901234567.89"],
    "numeric": ["1.10", "12345678901234567.89", "NaN"],
    "int": ["7"],
    "float8": ["0.1", "NaN", "Infinity"],
    "bool": ["true", "false"],
    "json": ['{"a":1.10,  "b":[1e400, 12345678901234567.89]}', "1.10", '"x"', "[]"],
    "ints": ["[1, 2, null]", "[[1], [2]]", "[]"],
    "texts": ['["a,b", "c\\"d\\\\", 1.10, true]'],
    "vector": ["[0.1, 0.2]"],
}
AS_SQL = {
    "[1, 2, null]": "{1,2,NULL}", "[[1], [2]]": "{{1},{2}}", "[0.1, 0.2]": "[0.1,0.2]",
    '["a,b", "c\\"d\\\\", 1.10, true]': r'{"a,b","c\"d\\",1.10,true}',
}  # fmt: skip


@pytest.mark.parametrize("column", JSON_VALUES)
async def test_a_json_value_keeps_its_spelling(store: Store, tmp_path: Path, column: str) -> None:
    values = JSON_VALUES[column]
    await make_table(store, column)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"id":{i},"{column}":{v}}}\n' for i, v in enumerate(values)))
    await loaded(store, path)
    expected = [AS_SQL.get(value, value) for value in values]
    if column == "ints":
        expected[-1] = "{}"
    assert await _texts(store, column) == expected
    assert (await loaded(store, path)).unchanged == len(values)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "ID,Title\n1,a\n2,b\n"),
        ("a.csv", " id ,Title\n1,a\n2,b\n"),
        ("a.jsonl", '{"ID":1,"Title":"a"}\n{"ID":2,"Title":"b"}\n'),
        ("a.csv", '_ID;"Title"\n1;a\n2;b\n'),
        ("a.tsv", "Uuid\tTitle\nx\ta\ny\tb\n"),
    ],
)
async def test_names_are_compared_without_case(
    store: Store, tmp_path: Path, name: str, content: str
) -> None:
    """Into a new table, again, and into a table whose columns are in lower case."""
    path = tmp_path / name
    path.write_text(content)
    first = await loaded(store, path)
    assert (first.inserted, len(first.key)) == (2, 1)
    assert (await loaded(store, path)).unchanged == 2
    path.write_text(content.lower())
    assert (await loaded(store, path)).unchanged == 2


async def test_a_key_named_in_another_case_is_the_key(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("code,title\n1.1,a\n1.10,b\n")
    assert (await loaded(store, path, key="CODE")).inserted == 2
    assert (await loaded(store, path, key="Code")).unchanged == 2


async def test_two_fields_for_one_column_are_refused(store: Store, tmp_path: Path) -> None:
    await make_table(store, "text")
    path = tmp_path / "a.csv"
    path.write_text("id,text,Text\n1,a,b\n")
    with pytest.raises(errors.InputFileError, match="'text' and 'Text', which are one column"):
        await loaded(store, path)
    await store.connector.execute('alter table values_ add "Text" text')
    assert (await loaded(store, path)).inserted == 1


async def test_equal_numbers_of_another_spelling_are_updated(store: Store, tmp_path: Path) -> None:
    await make_table(store, "numeric")
    path = tmp_path / "a.csv"
    path.write_text("id,numeric\n0,1.1\n")
    await loaded(store, path)
    path.write_text("id,numeric\n0,1.10\n")
    assert (await loaded(store, path)).updated == 1
    assert await _texts(store, "numeric") == ["1.10"]


async def test_a_key_of_several_columns_is_followed(store: Store, tmp_path: Path) -> None:
    await store.connector.execute(
        "create table values_ (a int, b int, t point, primary key (a, b))"
    )
    path = tmp_path / "a.csv"
    path.write_text('a,b,t\n1,1,"(1,1)"\n1,2,"(1,2)"\n')
    assert (await loaded(store, path)).inserted == 2
    path.write_text('a,b,t\n1,1,"(1,1)"\n1,2,"(2,2)"\n')
    assert (await loaded(store, path)).updated == 1
    path.write_text('a,b,t\n1,3,"(1,1)"\n1,2,"(2,2)"\n1,3,"(2,2)"\n')
    with pytest.raises(errors.InputFileError, match=r"key '1,3' 2 times, the last at line 4"):
        await loaded(store, path)


async def test_generated_identities_take_the_value_of_the_file(
    store: Store, tmp_path: Path
) -> None:
    await store.connector.execute(
        "create table values_ (id int generated always as identity primary key, t text)"
    )
    path = tmp_path / "a.csv"
    path.write_text("id,t\n41,a\n")
    assert (await loaded(store, path)).inserted == 1
    assert (await loaded(store, path)).unchanged == 1


async def test_a_refusal_by_a_trigger_names_the_line(store: Store, tmp_path: Path) -> None:
    await make_table(store, "text")
    await store.connector.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin "
        "if new.text = 'bad' then raise 'not this one'; end if; return new; end $$; "
        "create trigger refuse before insert on values_ for each row execute function refuse()"
    )
    path = tmp_path / "a.csv"
    path.write_text("id,text\n" + "".join(f"{i},{'bad' if i == 77 else i}\n" for i in range(90)))
    with pytest.raises(errors.InputFileError, match=r"a\.csv, line 79 does.*not this one"):
        await loaded(store, path)
    assert await _texts(store, "text") == []


async def test_a_deferred_constraint_is_checked_before_the_commit(
    store: Store, tmp_path: Path
) -> None:
    await store.connector.execute(
        "create table values_ (id int primary key, "
        "parent int references values_ deferrable initially deferred)"
    )
    path = tmp_path / "a.csv"
    path.write_text("id,parent\n1,2\n2,\n")  # the parent comes after its child
    assert (await loaded(store, path)).inserted == 2
    path.write_text("id,parent\n3,4\n")
    with pytest.raises(errors.InputFileError, match=r"\(parent\)=\(4\).*Nothing was loaded"):
        await loaded(store, path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
async def test_vectors_come_from_a_column_of_lists(store: Store, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    vectors: list[list[float] | None] = [[0.5, 1, 2], None, [1, 2, 3]]
    if name == "a.csv":
        lines = [f'{i},"{v}"' if v else f"{i}," for i, v in enumerate(vectors)]
        path.write_text("\n".join(["id,Embedding", *lines]))
    elif name == "a.jsonl":
        path.write_text(
            "".join(json.dumps({"id": i, "Embedding": v}) + "\n" for i, v in enumerate(vectors))
        )
    else:
        parquet.write_table(pa.table({"id": [0, 1, 2], "Embedding": vectors}), path)
    assert (await loaded(store, path, vectors="embedding")).inserted == 3
    [row] = await store.connector.fetch(
        "select format_type(atttypid, atttypmod) as type from pg_attribute "
        "where attrelid = 'values_'::regclass and attname = 'Embedding'"
    )
    assert row["type"] == "extensions.vector(3)"
    assert await _texts(store, '"Embedding"') == ["[0.5,1,2]", None, "[1,2,3]"]
    assert (await loaded(store, path, vectors="embedding")).unchanged == 3


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("[1, 2]", "line 2, field 'v' holds a list of 2 numbers; a vector of 3"),
        ('"no list"', "line 2, field 'v' holds no list"),
        ("[]", "line 2, field 'v' holds no list"),
        ('[1, 2, "x"]', "line 2, field 'v', does not fit"),
        ("[1, 2, NaN]", "line 2, field 'v', does not fit"),
    ],
)
async def test_a_vector_that_differs_is_named(
    store: Store, tmp_path: Path, second: str, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id":1,"v":[1,2,3]}}\n{{"id":2,"v":{second}}}\n')
    with pytest.raises(errors.InputFileError, match=message):
        await loaded(store, path, vectors="v")


async def test_vectors_need_a_field_with_lists(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id":1,"v":"x"}\n')
    for field in ("v", "nope"):
        with pytest.raises(errors.InputFileError, match="None of the first records"):
            await loaded(store, path, vectors=field)


async def test_the_dialect_of_the_load_is_returned(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id;t\n1;Größe\n".encode("utf-16"))
    seen: list[Dialect] = []
    done = await loaded(store, path, on_dialect=seen.append)
    assert seen == [done.dialect] == [Dialect("csv", ";", '"', "utf-16", "none")]
    assert str(done.dialect) == "CSV, ';', utf-16"
