"""Find a collection, and check that its table, column, model and grants fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from backline import errors
from backline.types import Collection, Model

VECTOR_TYPES: Final = ("vector", "halfvec")
# The collection of the music studio, which its pages use without naming it.
DEFAULT_NAME: Final = "music_knowledge"
# The errors of the SQL function `backline.resolve`, by SQLSTATE.
UNUSABLE: Final[Mapping[str, type[errors.ConfigurationError]]] = {
    "BL002": errors.ColumnNotFoundError,
    "BL003": errors.TableNotFoundError,
    "BL004": errors.KeyMissingError,
}


def choose(collections: Sequence[Collection], name: str | None) -> Collection:
    """Return the collection `name`. Without a name: the only one, or `music_knowledge`.

    Raises:
        CollectionNotFoundError: no collection has that name, or several exist and none is named.

    """
    if name is None:
        matching = [c for c in collections if len(collections) == 1 or c.name == DEFAULT_NAME]
    else:
        matching = [c for c in collections if name in (c.name, c.table)]
    if matching:
        return matching[0]
    names = ", ".join(c.name for c in collections) or "none yet"
    raise errors.CollectionNotFoundError(
        f"There is no collection {name!r}; declared: {names}. "
        "Declare it first: backline add TABLE --text '{column} …'."
        if name
        else f"Say which collection: {names}."
    )


def collection_of(record: Mapping[str, Any]) -> Collection:
    """Return a row of `backline.collection_records` as a value."""
    return Collection(
        id=record["id"],
        name=record["name"],
        table_schema=record["table_schema"],
        table_name=record["table_name"],
        key_column=record["key_column"],
        text_template=record["text_template"],
        embedding_column=record["embedding_column"],
        model_id=record["model_id"],
        model=Model(record["provider"], record["model"], record["revision"], record["dimensions"]),
        max_attempts=record["max_attempts"],
        table_exists=record["table_exists"],
        column_type=record["column_type"],
        column_dimensions=record["column_dimensions"],
        long_text=record["long_text"],
        missing_grants=tuple(record["missing_grants"] or ()),
        missing_to_read=tuple(record["missing_to_read"] or ()),
        unusable=tuple(record["unusable"]) if record["unusable"] else None,
    )


def check(collection: Collection, model: Model, *, to: Literal["read", "fill"] = "fill") -> None:
    """Raise unless a collection can be read or filled with vectors of `model`.

    Raises:
        TableNotFoundError, ColumnNotFoundError: the table or its vector column was dropped.
        DimensionMismatchError: the column does not hold vectors of the model's dimensions.
        ModelMismatchError: the collection is declared for another model.
        PermissionDeniedError: the role lacks a grant or a policy to read or fill the table.

    """
    require_column(collection)
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
            f"backline model use {collection.name} {model.provider}/{model.name}."
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


def _dimension_remedy(collection: Collection, model: Model) -> str:
    held = collection.column_dimensions or model.dimensions
    if model.provider == "openai":
        return (
            f"Request {held} dimensions from the model: backline model use {collection.name} "
            f"{model.provider}/{model.name}@{held}."
        )
    return (
        f"Put the vectors into a new column: backline drop {collection.name} && "
        f"{_add_command(collection, f'embedding_{model.dimensions}')}."
    )


def _add_command(collection: Collection, column: str) -> str:
    return f"backline add {collection.table} --text '{collection.text_template}' --column {column}"
