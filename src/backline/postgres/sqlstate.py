"""Translate driver errors into Backline's, by their SQLSTATE and not by their text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout

from backline import errors
from backline.postgres.conninfo import connection_error

# The first two characters of a SQLSTATE are its class. The longest matching prefix decides.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_SQLSTATE: Final[Mapping[str, type[errors.BacklineError]]] = {
    "08": errors.DatabaseUnavailableError,
    "57P": errors.DatabaseUnavailableError,  # shutting down, starting up, dropped
    "53300": errors.DatabaseUnavailableError,  # too many connections
    "53100": errors.DatabaseFullError,
    "53": errors.DatabaseUnavailableError,
    "25006": errors.ReadOnlyError,
    "28": errors.DatabaseAuthenticationError,
    "3D000": errors.DatabaseUnavailableError,
    "55000": errors.ObjectStateError,
    "25P03": errors.DatabaseUnavailableError,  # idle in a transaction: this process was stopped
    "55P03": errors.ContentionError,
    "40P01": errors.ContentionError,
    "40001": errors.ContentionError,
    "57014": errors.StatementTimeoutError,
    "42501": errors.PermissionDeniedError,
    "3F000": errors.NotMigratedError,
    "0A000": errors.DatabaseError,
    "22": errors.RowRefusedError,
    "23": errors.RowRefusedError,
    "27": errors.RowRefusedError,  # a trigger changed a later row of the same statement
    "P0001": errors.RowRefusedError,  # what triggers raise
    "P0002": errors.CollectionNotFoundError,  # raised by `select … into strict`
    "42P01": errors.TableNotFoundError,
    "42703": errors.ColumnNotFoundError,
    "BL001": errors.UsageError,
    "BL002": errors.ColumnNotFoundError,
    "BL003": errors.TableNotFoundError,
    "BL004": errors.KeyMissingError,
    "BL005": errors.ModelMismatchError,
    "BL006": errors.DimensionMismatchError,
    "BL007": errors.CollectionExistsError,
    "BL008": errors.VectorsExistError,
    "BL009": errors.ModelChangeError,
    "BL010": errors.NotFilledError,
}

# Undefined function, table and column, and no unique constraint for ON CONFLICT.
_UNDEFINED: Final = frozenset({"42883", "42P01", "42703", "42P10"})
_OWN: Final = re.compile(r"\b(backline\.|backline_\w+\()")


def translate(error: psycopg.Error | PoolTimeout, where: str) -> errors.BacklineError:
    """Return the Backline error for a driver error. `where` is the address of the server."""
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    if state is None or not isinstance(error, psycopg.Error):
        return connection_error(error, where)
    kind = kind_of(state)
    message = error.diag.message_primary or str(error)
    if state.startswith("BL"):
        return kind(message)
    if state in _UNDEFINED and _OWN.search(message):
        return errors.SchemaDamagedError(
            f"Schema backline is damaged: {message} [{state}]. Run: backline migrate."
        )
    if kind is errors.NotMigratedError:
        return kind()
    remedy = (inspect.getdoc(kind) or "").partition(". ")[2]
    return kind(f"Postgres at {where} says: {message} [{state}]. {remedy}".strip())


def kind_of(sqlstate: str) -> type[errors.BacklineError]:
    """Return the class of error for a SQLSTATE."""
    return next(
        (_BY_SQLSTATE[sqlstate[:n]] for n in (5, 3, 2) if sqlstate[:n] in _BY_SQLSTATE),
        errors.DatabaseError,
    )
