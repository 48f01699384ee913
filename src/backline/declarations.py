"""Declare all collections of a project in one TOML file, and apply what differs.

The file may be that of the settings.

```toml
[collections.articles]
table = "public.articles"
text = "{title} {body}"
where = "deleted_at is null"
model = "local"

[collections."items of {schema}"]
tables = "tenant_*.knowledge_items"
text-sql = "{schema}.item_text(r.*)"
```

`tables` declares one collection for each table that matches; `{schema}` and `{table}` in its name
and in its SQL stand for those of the table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from backline import errors
from backline.collections import declared_splitting, passages_table
from backline.config import COLLECTIONS, MODELS, TOML, Settings
from backline.errors import command
from backline.postgres.store import Store
from backline.search import indexes
from backline.sql import query
from backline.types import Collection, LongText, Model, Splitting

Resolve: TypeAlias = Callable[[str], Awaitable[Model]]
"""Returns the model that a specification such as "local" names."""

PLACEHOLDER: Final = re.compile("([\"']?)\\{(schema|table)\\}")
"""Stands for the schema or the name of a table that `tables` matches."""
SIMPLE_NAME: Final = re.compile("[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Declaration:
    """One collection as a file declares it; the fields are the options of `backline add`."""

    name: str
    table: str
    text: str | None = None
    text_sql: str | None = None
    where: str | None = None
    key: tuple[str, ...] | None = None
    model: str = "local"
    column: str = "embedding"
    column_type: str = "vector"
    into: str | None = None
    partitions: int = 1
    follow: str | None = None
    passages: str = "none"
    passage_tokens: int | None = None
    overlap: int = 0
    long_text: LongText = "truncate"
    language: str | None = None
    language_column: str | None = None
    published: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """A field whose value in the file is not the present one.

    Attributes:
        remedy: what changes it; None if `apply` does.
    """

    field: str
    present: str
    declared: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What `apply` does with one collection.

    Attributes:
        action: "add" it, "change" it, "keep" it, or leave one alone that is "undeclared".
    """

    action: Literal["add", "change", "keep", "undeclared"]
    name: str
    table: str
    differences: tuple[Difference, ...] = ()


# --- the file -------------------------------------------------------------------------------------


def read(path: Path) -> list[Declaration]:
    """Return what a file declares. A pattern in `tables` is still in `table`.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has unknown or missing fields.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{path} is not TOML: {error}.") from error
    _require_known(path, "", document, [COLLECTIONS, MODELS, *Settings.model_fields])
    if MODELS in document and path.resolve() != Path(TOML).resolve():
        raise errors.UsageError(
            f"{path} declares models, which every command must know. Move [[models]] to {TOML}."
        )
    collections = document.get(COLLECTIONS)
    if not isinstance(collections, dict) or not collections:
        raise errors.UsageError(
            f"{path} declares no collection. Write for example:\n"
            '[collections.articles]\ntable = "public.articles"\ntext = "{title} {body}"'
        )
    return [_declaration(path, name, values) for name, values in collections.items()]


def _declaration(path: Path, name: str, values: Any) -> Declaration:
    where = f"[collections.{name}]: "
    if not isinstance(values, dict):
        raise errors.UsageError(f"{path}, {where}write a table of fields.")
    given = {key.replace("-", "_"): value for key, value in values.items()}
    known = [field.name for field in fields(Declaration) if field.name != "name"]
    _require_known(path, where, given, [*known, "tables"])
    if ("table" in given) == ("tables" in given):
        raise errors.UsageError(f"{path}, {where}write either table or tables.")
    table = given.pop("tables", None) or given.pop("table")
    if isinstance(given.get("key"), str):
        given["key"] = [given["key"]]
    for field, value in {**given, "table": table}.items():
        _require_type(path, where, field, value)
    if "key" in given:
        given["key"] = tuple(given["key"])
    if ("text" in given) == ("text_sql" in given):
        raise errors.UsageError(f"{path}, {where}write either text or text-sql.")
    return Declaration(name=name, table=table, **given)


def _require_known(path: Path, where: str, given: Mapping[str, Any], known: list[str]) -> None:
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            meant = f"Did you mean {close[0]!r}?" if close else f"Fields: {', '.join(known)}."
            raise errors.UsageError(f"{path}, {where}there is no field {name!r}. {meant}")


def _require_type(path: Path, where: str, field: str, value: Any) -> None:
    if field == "published":
        right, kind = isinstance(value, bool), "true or false"
    elif field == "key":
        right = isinstance(value, list) and all(isinstance(name, str) for name in value)
        kind = "a column or a list of columns"
    elif field in ("passage_tokens", "overlap", "partitions"):
        right, kind = isinstance(value, int) and not isinstance(value, bool), "a number"
    elif field == "long_text":
        right, kind = value in get_args(LongText), f"one of {', '.join(get_args(LongText))}"
    else:
        right, kind = isinstance(value, str), "a text in quotes"
    if not right:
        raise errors.UsageError(f"{path}, {where}{field} is {value!r}; write {kind}.")


async def expand(store: Store, declared: list[Declaration]) -> list[Declaration]:
    """Return one declaration for each table that a pattern in `table` matches.

    Raises:
        UsageError: no table matches, or two declarations have one name.
    """
    expanded: list[Declaration] = []
    for declaration in declared:
        is_pattern = "*" in declaration.table or PLACEHOLDER.search(declaration.name)
        expanded += await _matching(store, declaration) if is_pattern else [declaration]
    names = [declaration.name for declaration in expanded]
    for name in names:
        if names.count(name) > 1:
            raise errors.UsageError(
                f"Several tables would have the collection {name!r}. Put {{schema}} into the name: "
                '[collections."… of {schema}"].'
            )
    return expanded


async def _matching(store: Store, declaration: Declaration) -> list[Declaration]:
    schema, _, table = declaration.table.rpartition(".")
    values = {"schema": _like(schema or "public"), "name": _like(table)}
    rows = await store.connector.fetch(query("tables_matching"), values)
    if not rows:
        raise errors.UsageError(f"No table matches {declaration.table!r}.")
    return [_placed(declaration, row["schema"], row["name"]) for row in rows]


def _like(pattern: str) -> str:
    for special in "\\_%":
        pattern = pattern.replace(special, "\\" + special)
    return pattern.replace("*", "%")


def _placed(declaration: Declaration, schema: str, table: str) -> Declaration:
    names = {"schema": schema, "table": table}
    changes: dict[str, Any] = {"name": PLACEHOLDER.sub(lambda m: names[m[2]], declaration.name)}
    for field in ("text_sql", "where", "into"):
        sql = getattr(declaration, field)
        changes[field] = sql and PLACEHOLDER.sub(lambda m: _in_sql(m[1], names[m[2]]), sql)
    return replace(declaration, table=f"{schema}.{table}", **changes)


def _in_sql(quote: str, name: str) -> str:
    """Return a name as it is written in SQL after a quote, or as an identifier."""
    if quote:
        return quote + name.replace(quote, quote * 2)
    return name if SIMPLE_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'


# --- the plan -------------------------------------------------------------------------------------


async def plan(store: Store, declared: list[Declaration], resolve: Resolve) -> list[Step]:
    """Return what would make the database as declared.

    Collections that are not declared are part of it.
    """
    present = {collection.name: collection for collection in await store.collections()}
    steps = []
    for declaration in declared:
        collection = present.get(declaration.name)
        if collection is None:
            record = await store.find_table(declaration.table)
            steps.append(Step("add", declaration.name, f"{record['schema']}.{record['name']}"))
            continue
        found = await _differences(store, collection, declaration, resolve)
        steps.append(
            Step("change" if found else "keep", collection.name, collection.table, tuple(found))
        )
    names = {declaration.name for declaration in declared}
    others = [collection for name, collection in present.items() if name not in names]
    return steps + [Step("undeclared", other.name, other.table) for other in others]


async def _differences(
    store: Store, collection: Collection, declaration: Declaration, resolve: Resolve
) -> list[Difference]:
    record = await store.find_table(declaration.table)
    model = await resolve(declaration.model)
    language = (await indexes.keyword_index(store, collection)).language
    here = [
        ("table", collection.table, f"{record['schema']}.{record['name']}"),
        ("key", ", ".join(collection.key_columns),
         ", ".join(declaration.key or collection.key_columns)),
        ("model", _short(collection.model), _short(model)),
        ("long_text", collection.long_text, declaration.long_text),
        ("language", language.removeprefix("pg_catalog."),
         (declaration.language or language).removeprefix("pg_catalog.")),
        ("vectors", *await _places(store, collection, declaration)),
        ("passages", _split(collection.splitting), _split(_splitting(declaration, model))),
        ("follow", collection.follow or "triggers", declaration.follow or "triggers"),
        ("text", *await _texts(store, collection, declaration, record["oid"])),
        ("where", *await _conditions(store, collection, declaration, record["oid"])),
    ]  # fmt: skip
    return [
        Difference(field, present, declared, _remedy(collection, declaration, field))
        for field, present, declared in here
        if present != declared
    ]


def _short(model: Model) -> str:
    return f"{model.provider}/{model.name}@{model.dimensions}"


def _splitting(declaration: Declaration, model: Model) -> Splitting | None:
    return declared_splitting(
        model, declaration.passages, declaration.passage_tokens, declaration.overlap
    )


def _split(splitting: Splitting | None) -> str:
    if splitting is None:
        return "none"
    return f"{splitting.by} of {splitting.tokens} tokens, overlap {splitting.overlap}"


def _remedy(collection: Collection, declaration: Declaration, field: str) -> str | None:
    if field in ("text", "where", "language"):
        return None
    if field == "model":
        return "Change it with: " + command("model", "use", collection.name, declaration.model)
    return "Declare the collection again: " + command("drop", collection.name)


async def _places(
    store: Store, collection: Collection, declaration: Declaration
) -> tuple[str, str]:
    if declaration.into is None and collection.splitting is not None:
        return "", ""  # the default side table of the passages
    if declaration.into is None:
        present = collection.vector_column if collection.into else collection.embedding_column
        return present, declaration.column
    row = await store.connector.fetch_one(query("side_name"), {"into": declaration.into})
    present = ".".join(collection.into) if collection.into else collection.vector_column
    return present, ".".join(row["name"])


async def _texts(
    store: Store, collection: Collection, declaration: Declaration, table: int
) -> tuple[str, str]:
    present = collection.text_template or collection.text_expression or ""
    if declaration.text_sql is None:
        return present, declaration.text or ""
    if await _same(store, table, declaration.text_sql, "text", collection.text_expression):
        return present, present
    return present, declaration.text_sql


async def _conditions(
    store: Store, collection: Collection, declaration: Declaration, table: int
) -> tuple[str, str]:
    present, declared = collection.where_sql or "", declaration.where or ""
    if declared and await _same(store, table, declared, "boolean", collection.where_sql):
        return present, present
    return present, declared


async def _same(store: Store, table: int, expression: str, kind: str, compiled: str | None) -> bool:
    if compiled is None:
        return False
    values = {"table": table, "expression": expression, "type": kind, "compiled": compiled}
    return bool((await store.connector.fetch_one(query("same_expression"), values))["same"])


# --- its application ------------------------------------------------------------------------------


def require_applicable(steps: list[Step]) -> None:
    """Raise a UsageError if the plan has a difference that `apply` does not change."""
    for step in steps:
        for difference in step.differences:
            if difference.remedy is not None:
                raise errors.UsageError(
                    f"{step.name}: {difference.field} is {difference.present!r}, and the file says "
                    f"{difference.declared!r}. {difference.remedy}. Nothing was changed."
                )


async def parts(store: Store, declaration: Declaration, table: str, model: Model) -> dict[str, Any]:
    """Return the arguments of `Store.add_collection` except name and table.

    Raises:
        UsageError: Postgres does not have the language, or the passages cannot be made.
    """
    if declaration.language is not None:
        await indexes.require_language(store, declaration.language)
    splitting, into = _splitting(declaration, model), declaration.into
    if splitting is not None and into is None:
        into = passages_table(table)
    return {
        "key": declaration.key and list(declaration.key), "template": declaration.text,
        "text_sql": declaration.text_sql, "where": declaration.where,
        "column": declaration.column, "column_type": declaration.column_type, "into": into,
        "partitions": declaration.partitions, "splitting": splitting, "model": model,
        "long_text": declaration.long_text,
        "language": declaration.language, "language_column": declaration.language_column,
        "published": declaration.published, "follow": declaration.follow,
    }  # fmt: skip


async def add(store: Store, declaration: Declaration, resolve: Resolve) -> None:
    """Declare a collection; see `Store.add_collection` for the errors."""
    record = await store.find_table(declaration.table)
    model = await resolve(declaration.model)
    declared = await parts(store, declaration, record["name"], model)
    await store.add_collection(declaration.name, record["oid"], **declared)


async def change(store: Store, collection: Collection, step: Step, declaration: Declaration) -> int:
    """Change what differs, and return the number of rows that are due because of it."""
    due = 0
    changed = {difference.field for difference in step.differences}
    if "text" in changed:
        due += await store.set_text(
            collection, template=declaration.text, text_sql=declaration.text_sql
        )
    if "where" in changed:
        due += await store.set_where(collection, declaration.where)
    if "language" in changed:
        await indexes.set_keywords(store, collection, language=declaration.language)
    return due
