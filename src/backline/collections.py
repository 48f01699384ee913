"""Find a collection, and check that its table, column, model and grants fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, Final, Literal, cast, get_args

from backline import errors
from backline.embedders import registry
from backline.errors import command
from backline.types import Collection, Model, PassageUnit, Problem, Splitting

DEFAULT_PASSAGE_TOKENS: Final = 256
SMALLEST_PASSAGE: Final = 16
VECTOR_TYPES: Final = ("vector", "halfvec")
# The errors of the SQL function `backline.resolve`, by SQLSTATE.
UNUSABLE: Final[Mapping[str, type[errors.ConfigurationError]]] = {
    "BL002": errors.ColumnNotFoundError,
    "BL003": errors.TableNotFoundError,
    "BL004": errors.KeyMissingError,
}


def choose(collections: Sequence[Collection], name: str | None) -> Collection:
    """Return the collection of that name, or else the only one of that table.

    Without a name, return the only collection. The other target of a change of the model is found
    by its name alone.

    Raises:
        CollectionNotFoundError: no collection has that name, or several exist and none is named.

    """
    serving = [c for c in collections if c.role == "serving"]
    if name is None:
        matching = serving
    else:
        matching = [c for c in collections if c.name == name]
        matching = matching or [c for c in serving if c.table == name]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(c.name for c in matching or serving) or "none yet"
    if matching:
        raise errors.CollectionNotFoundError(
            f"Say which collection: {names}. On the command line, name it as COLLECTION or with "
            "--collection; in a request, as `collection`."
        )
    if name is None:
        raise errors.CollectionNotFoundError(
            "No collection is declared yet. Declare one: backline add TABLE --text '{column} …'."
        )
    raise errors.CollectionNotFoundError(
        f"There is no collection {name!r}; declared: {names}. "
        "Declare it first: backline add TABLE --text '{column} …'."
    )


def collection_of(record: Mapping[str, Any]) -> Collection:
    """Return a row of `backline.collection_records` as a value."""
    return Collection(
        id=record["id"],
        name=record["name"],
        table_schema=record["table_schema"],
        table_name=record["table_name"],
        key_columns=tuple(record["key_columns"]),
        text_template=record["text_template"],
        embedding_column=record["embedding_column"],
        model_id=record["model_id"],
        model=Model(record["provider"], record["model"], record["revision"], record["dimensions"]),
        max_attempts=record["max_attempts"],
        table_exists=record["table_exists"],
        column_type=record["column_type"],
        column_dimensions=record["column_dimensions"],
        long_text=record["long_text"],
        splitting=Splitting(**record["passages"]) if record["passages"] else None,
        into=(record["into_schema"], record["into_name"]) if record["into_name"] else None,
        missing_grants=tuple(record["missing_grants"] or ()),
        missing_to_read=tuple(record["missing_to_read"] or ()),
        unusable=tuple(record["unusable"]) if record["unusable"] else None,
        scanned_at=_moment(record["scanned_at"]),
        text_expression=record["text_expression"],
        where_sql=record["where_sql"],
        adopting=record["adopting"],
        follow=record["follow"],
        role=record["role"],
        frozen=record["frozen"],
    )


def _moment(value: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def passages_table(table: str) -> str:
    """Return the default side table of the passages of a table, as SQL names it."""
    name = table[:50].replace('"', '""')
    return f'"{name}_passages"'


def declared_splitting(
    model: Model, unit: str, tokens: int | None = None, overlap: int = 0
) -> Splitting | None:
    """Return how texts are split for a model; None for the unit "none".

    Raises:
        UsageError: the unit does not exist, or a number is out of range.
    """
    if unit == "none":
        if tokens is not None or overlap:
            raise errors.UsageError(
                "--passage-tokens and --overlap describe passages. Add --passages auto."
            )
        return None
    if unit not in get_args(PassageUnit):
        raise errors.UsageError(
            f"--passages is {unit!r}; use {', '.join(get_args(PassageUnit))} or none."
        )
    largest = min(DEFAULT_PASSAGE_TOKENS, model.max_tokens) if tokens is None else tokens
    if not SMALLEST_PASSAGE <= largest <= model.max_tokens:
        raise errors.UsageError(
            f"--passage-tokens is {largest:,}; with {model} it must be {SMALLEST_PASSAGE} to "
            f"{model.max_tokens:,}, which is what the model reads."
        )
    if not 0 <= overlap <= largest // 2:
        raise errors.UsageError(
            f"--overlap is {overlap:,}; it must be 0 to {largest // 2:,}, half of --passage-tokens."
        )
    return Splitting(cast("PassageUnit", unit), largest, overlap)


def check(collection: Collection, model: Model, *, to: Literal["read", "fill"] = "fill") -> None:
    """Raise unless a collection can be read or filled with vectors of `model`.

    Raises:
        TableNotFoundError, ColumnNotFoundError: the table or its vector column was dropped.
        DimensionMismatchError: the column does not hold vectors of the model's dimensions.
        ModelMismatchError: the collection is declared for another model.
        PermissionDeniedError: the role lacks a grant or a policy to read or fill the table.
        UsageError: its vectors are being adopted, and filling it would replace them.

    """
    require_column(collection)
    if collection.adopting and to == "fill":
        raise errors.UsageError(
            f"The vectors of {collection.vector_column} are not all adopted yet, and would be "
            f"embedded again. Finish with the same {command('add', collection.table)} … --adopt."
        )
    if collection.frozen and to == "fill":
        raise errors.UsageError(
            f"{collection.name!r} is frozen: it keeps the vectors from before the change of the "
            f"model. To use it again: {command('model', 'rollback', collection.family)}."
        )
    check_dimensions(collection, model)
    check_model(collection, model)
    check_grants(collection, to)


def require_column(collection: Collection) -> None:
    """Raise unless the table of a collection and its columns exist.

    Raises:
        TableNotFoundError, ColumnNotFoundError, KeyMissingError: it was dropped.

    """
    if collection.unusable is not None:
        code, message = collection.unusable
        raise UNUSABLE[code](message)


def check_dimensions(collection: Collection, model: Model) -> None:
    """Raise unless the column holds vectors of the model's dimensions.

    Raises:
        DimensionMismatchError: its type or its dimensions differ.

    """
    check_column(
        collection.vector_column,
        collection.column_type or "",
        collection.column_dimensions,
        model,
        remedy=_dimension_remedy(collection, model),
    )


def check_model(collection: Collection, model: Model) -> None:
    """Raise unless vectors of `model` compare with those of the collection.

    Raises:
        ModelMismatchError: the collection is declared for another model.

    """
    if model.identity != collection.model.identity:
        raise errors.ModelMismatchError(
            f"The collection {collection.name!r} is embedded with {collection.model} revision "
            f"{collection.model.revision}, not with {model} revision {model.revision}. Vectors of "
            "two models cannot be compared. To change the model: "
            f"{command('model', 'change', collection.name, '--to', spec(model))}."
        )


def check_column(
    column: str, kind: str, dimensions: int | None, model: Model, *, remedy: str = ""
) -> None:
    """Raise unless a column of this type holds vectors of the model's dimensions.

    Args:
        column: its name in messages.
        kind: its type.
        dimensions: the dimensions of that type; None if it does not limit them.
        model: the model of the vectors to store.
        remedy: what to do about other dimensions; ends the message.

    Raises:
        DimensionMismatchError: the type or its dimensions differ.

    """
    if kind not in VECTOR_TYPES:
        raise errors.DimensionMismatchError(
            f"The column {column} is of type {kind}; it must be vector or halfvec. "
            "Name another column with --column."
        )
    if dimensions not in (None, model.dimensions):
        message = (
            f"The column {column} holds {dimensions} dimensions, the model {model} gives "
            f"{model.dimensions}. {remedy}"
        )
        raise errors.DimensionMismatchError(message.rstrip())


def check_grants(collection: Collection, to: Literal["read", "fill"]) -> None:
    """Raise unless the role of this connection may read or fill the table.

    Raises:
        PermissionDeniedError: it may not; the message holds the statements that grant it.

    """
    missing = collection.missing_grants if to == "fill" else collection.missing_to_read
    if missing:
        raise errors.PermissionDeniedError(
            f"This database role may not {to} {collection.table}. Let its owner run: "
            f"{'; '.join(missing)};"
        )


def announced_end(collection: Collection, today: date) -> Problem | None:
    """Return the end of the collection's model that its provider has announced, or None."""
    end = registry.announced_end(collection.model)
    if end is None:
        return None
    successor = end.successor or "MODEL"
    remedy = command("model", "change", collection.name, "--to", successor)
    return Problem("model", end.sentence(today), remedy)


def _dimension_remedy(collection: Collection, model: Model) -> str:
    held = collection.column_dimensions or model.dimensions
    known = registry.find(model.provider, model.name)
    if registry.provider(model.provider) and (known is None or known.allows(held)):
        shorter = spec(replace(model, dimensions=held))
        use = command("model", "use", collection.name, shorter)
        return f"Request {held} dimensions from the model: {use}."
    place = "side table" if collection.into else "column"
    return (
        f"Put the vectors into a new {place}: {command('drop', collection.name)} && "
        f"{_add_command(collection, model)}."
    )


def _add_command(collection: Collection, model: Model) -> str:
    keys = [word for name in collection.key_columns for word in ("--key", name)]
    place = ["--column", f"embedding_{model.dimensions}"]
    if collection.into is not None:
        schema, name = collection.into
        place = ["--into", f'"{schema}"."{name}_{model.dimensions}"']
    follow = ["--follow", collection.follow] if collection.follow else []
    return command(
        "add", collection.table, "--name", collection.name, *keys,
        *_text_options(collection), *place, *follow, "--model", spec(model),
    )  # fmt: skip


def _text_options(collection: Collection) -> list[str]:
    """Return the options of `add` that declare the text and the condition."""
    template, expression = collection.text_template, collection.text_expression
    text = ["--text", template] if template is not None else ["--text-sql", expression or ""]
    return text + (["--where", collection.where_sql] if collection.where_sql else [])


def spec(model: Model) -> str:
    """Return what `--model` takes for a model."""
    name = "hash" if model.provider == "hash" else f"{model.provider}/{model.name}"
    return name if model.provider == "local" else f"{name}@{model.dimensions}"
