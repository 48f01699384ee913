"""Read the collections that a TOML file declares; `backline.apply` compares and applies them.

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
from typing import Any, Final, TypeAlias, get_args

from backline import errors
from backline.collections import declared_splitting, passages_table
from backline.config import COLLECTIONS, MODELS, TOML, Settings
from backline.postgres.store import Store
from backline.search import indexes
from backline.sql import query
from backline.types import LongText, Model, Splitting

Resolve: TypeAlias = Callable[[str], Awaitable[Model]]
"""Returns the model that a specification such as "local" names."""

PLACEHOLDER: Final = re.compile("([\"']?)\\{(schema|table)\\}")
"""Stands for the schema or the name of a table that `tables` matches."""
SIMPLE_NAME: Final = re.compile("[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Declaration:
    """One collection as a file declares it; the fields are the options of `backline add`.

    Without `column`, `into` and `column_type`, the vectors of a collection that exists may be in
    any place and of any type. A new one has the column "embedding" of the type "vector".
    """

    name: str
    table: str
    text: str | None = None
    text_sql: str | None = None
    where: str | None = None
    key: tuple[str, ...] | None = None
    model: str = "local"
    column: str | None = None
    column_type: str | None = None
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


# --- its application ------------------------------------------------------------------------------


def splitting(declaration: Declaration, model: Model) -> Splitting | None:
    """Return how the texts of a declared collection are split."""
    return declared_splitting(
        model, declaration.passages, declaration.passage_tokens, declaration.overlap
    )


async def parts(store: Store, declaration: Declaration, table: str, model: Model) -> dict[str, Any]:
    """Return the arguments of `Store.add_collection` except name and table.

    Raises:
        UsageError: Postgres does not have the language, or the passages cannot be made.
    """
    if declaration.language is not None:
        await indexes.require_language(store, declaration.language)
    split, into = splitting(declaration, model), declaration.into
    if split is not None and into is None:
        into = passages_table(table)
    return {
        "key": declaration.key and list(declaration.key), "template": declaration.text,
        "text_sql": declaration.text_sql, "where": declaration.where,
        "column": declaration.column or "embedding",
        "column_type": declaration.column_type or "vector", "into": into,
        "partitions": declaration.partitions, "splitting": split, "model": model,
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
