"""Find a collection, and check that its table, column, model and grants fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from backline import errors
from backline.types import Collection, Model


def choose(known: Sequence[Collection], name: str | None) -> Collection:
    """The collection of that name, or, without a name, the only one or `music_knowledge`.

    Raises:
        CollectionNotFoundError: there is none of that name, or several to choose from.

    """
    wanted = [c for c in known if name in (c.name, c.table)]
    if name is None:
        wanted = [c for c in known if len(known) == 1 or c.name == "music_knowledge"]
    if wanted:
        return wanted[0]
    names = ", ".join(c.name for c in known) or "none yet"
    raise errors.CollectionNotFoundError(
        f"There is no collection {name!r}; declared: {names}. "
        "Declare it first: backline add TABLE --text '{column} …'."
        if name
        else f"Say which collection: {names}."
    )


def collection_of(row: Mapping[str, Any]) -> Collection:
    """A row of `backline.collection_records` as a value."""
    return Collection(
        id=row["id"],
        name=row["name"],
        table_schema=row["table_schema"],
        table_name=row["table_name"],
        key_column=row["key_column"],
        text_template=row["text_template"],
        embedding_column=row["embedding_column"],
        model_id=row["model_id"],
        model=Model(row["provider"], row["model"], row["revision"], row["dimensions"]),
        max_attempts=row["max_attempts"],
        table_exists=row["table_exists"],
        column_type=row["column_type"],
        column_dimensions=row["column_dimensions"],
        long_text=row["long_text"],
        missing_grants=tuple(row["missing_grants"] or ()),
        missing_to_read=tuple(row["missing_to_read"] or ()),
    )


def require_column(collection: Collection) -> None:
    """Refuse a collection whose table or column somebody has dropped.

    Raises:
        TableNotFoundError, ColumnNotFoundError: it is gone.

    """
    if not collection.table_exists:
        raise errors.TableNotFoundError(
            f"The table {collection.table} of the collection {collection.name!r} is gone. "
            f"Restore it, or forget the collection: backline drop {collection.name}."
        )
    if collection.column_type is None:
        raise errors.ColumnNotFoundError(
            f"The column {collection.table}.{collection.embedding_column} is gone. Declare the "
            f"collection anew, which adds it: backline drop {collection.name} && backline add "
            f"{collection.table} --text '{collection.text_template}' "
            f"--column {collection.embedding_column}."
        )


def check(collection: Collection, model: Model, *, to: Literal["read", "fill"] = "fill") -> None:
    """Find what cannot work before anything is spent.

    Raises:
        TableNotFoundError, ColumnNotFoundError: the table or its column is gone.
        DimensionMismatchError: the column holds other dimensions than the model gives.
        ModelMismatchError: the collection is declared for another model.
        PermissionDeniedError: the role may not read the table or, to fill it, not write it.

    """
    require_column(collection)
    column = f"{collection.table}.{collection.embedding_column}"
    kind = collection.column_type or ""
    try:
        check_column(column, kind, collection.column_dimensions, model)
    except errors.DimensionMismatchError as error:
        held = collection.column_dimensions or model.dimensions
        raise errors.DimensionMismatchError(
            f"{error} {_dimension_remedy(collection, model, held)}"
        ) from None
    if model.identity != collection.model.identity:
        raise errors.ModelMismatchError(
            f"The collection {collection.name!r} is embedded with {collection.model} revision "
            f"{collection.model.revision}, not with {model} revision {model.revision}. To change "
            f"it: backline model use {collection.name} {model.provider}/{model.name}."
        )
    missing = collection.missing_grants if to == "fill" else collection.missing_to_read
    if missing:
        raise errors.PermissionDeniedError(
            f"This database role may not {to} {collection.table}. Let its owner run: "
            f"{'; '.join(missing)};"
        )


def check_column(column: str, kind: str, dimensions: int | None, model: Model) -> None:
    """Whether a column of this type takes the model's vectors.

    Raises:
        DimensionMismatchError: it does not.

    """
    if kind not in ("vector", "halfvec"):
        raise errors.DimensionMismatchError(
            f"The column {column} is of type {kind}; it must be vector or halfvec. "
            "Name another column with --column."
        )
    if dimensions is not None and dimensions != model.dimensions:
        raise errors.DimensionMismatchError(
            f"The column {column} holds {dimensions} dimensions, the model {model} gives "
            f"{model.dimensions}."
        )


def _dimension_remedy(collection: Collection, model: Model, held: int) -> str:
    if model.provider == "openai":
        return (
            f"Ask the model for {held}: backline model use {collection.name} "
            f"{model.provider}/{model.name}@{held}."
        )
    return (
        f"Put the vectors into a new column: backline drop {collection.name} && "
        f"backline add {collection.table} --text '{collection.text_template}' "
        f"--column embedding_{model.dimensions}."
    )
