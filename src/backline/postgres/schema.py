"""Compare the schema `backline` with what the migrations create."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from psycopg import sql

from backline import errors
from backline.postgres.connector import Connector
from backline.sql import migrations, query
from backline.sql.objects import Objects, objects
from backline.types import Problem

MIGRATE: Final = "Run: backline migrate"
# Kinds without which statements fail or counts are wrong. The others cost time, or a grant.
FATAL: Final = frozenset({"table", "column", "key", "sequence", "trigger", "function"})
_NAMED: Final = 5


async def history(connector: Connector) -> dict[str, str]:
    """Return the name of each applied migration by version; empty without the schema.

    Raises:
        PermissionDeniedError: the role may work, but not read the history.

    """
    state = await connector.fetch_one(
        "select to_regclass('supabase_migrations.schema_migrations') is not null as exists"
    )
    if not state["exists"]:
        return {}
    rows = await connector.fetch(query("applied_migrations"))
    return {row["version"]: row["name"] or "" for row in rows}


async def schema_problems(connector: Connector) -> list[Problem]:
    """Return what is missing, changed, or without its privileges in the schema `backline`.

    Reads the catalog only, since any function of the schema may be missing. Returns nothing for a
    database without the schema or without pgvector, or with a newer version's schema.
    """
    found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for row in await connector.fetch(query("schema_objects")):
        found[row["kind"]].add((row["name"], row["detail"]))
    if not found["table"] or not found["vector"] or await _is_newer(connector):
        return []
    [(vector, _)] = found["vector"]
    expected = objects(quoted(vector))
    return [
        *_structure(expected, found),
        *_functions(expected, found["function"]),
        *_privileges(expected, found),
        *await _leftover_triggers(connector, found["table"]),
    ]


async def require_sound(connector: Connector) -> None:
    """Raise unless every table, column, key, trigger and function is there, as this version's.

    Raises:
        SchemaDamagedError: names up to five of them.

    """
    problems = [each for each in await schema_problems(connector) if each.kind in FATAL]
    if not problems:
        return
    named = [each.problem for each in problems[:_NAMED]]
    if len(problems) > _NAMED:
        named.append(f"{len(problems) - _NAMED} more objects are damaged.")
    raise errors.SchemaDamagedError(f"Schema backline is damaged. {' '.join(named)} {MIGRATE}.")


def quoted(schema: str) -> str:
    """Return the name of pgvector's schema as a migration contains it."""
    return schema if schema == "extensions" else sql.Identifier(schema).as_string(None)


async def _is_newer(connector: Connector) -> bool:
    """Return whether a newer version of Backline has migrated the database."""
    known = {each.version for each in migrations()}
    try:
        applied = await history(connector)
    except errors.PermissionDeniedError:
        return False
    return any(
        version not in known and name.startswith("backline") for version, name in applied.items()
    )


def _structure(expected: Objects, found: dict[str, set[tuple[str, str]]]) -> Iterable[Problem]:
    tables = {name for name, _ in found["table"]}
    for name in sorted(expected.tables - tables):
        yield _missing("table", f"backline.{name}")
    for kind, names in (("column", expected.columns), ("key", expected.keys)):
        for table, name in sorted(names.keys() - found[kind]):
            if table in tables:
                yield _missing(kind, f"{name} of backline.{table}")
    for table, name in sorted(expected.triggers - found["trigger"]):
        if table in tables:
            yield _missing("trigger", f"{name} on backline.{table}")
    for kind, expected_names in (("index", expected.indexes), ("sequence", expected.sequences)):
        for name in sorted(expected_names - {name for name, _ in found[kind]}):
            yield _missing(kind, f"backline.{name}")


def _functions(expected: Objects, found: set[tuple[str, str]]) -> Iterable[Problem]:
    present: defaultdict[str, set[str]] = defaultdict(set)
    for name, body in found:
        present[name].add(body)
    for name, bodies in sorted(expected.bodies.items()):
        if not present[name]:
            yield _missing("function", name)
        elif not bodies <= present[name]:
            yield Problem("function", f"The function {name} is not this version's.", MIGRATE)


def _privileges(expected: Objects, found: dict[str, set[tuple[str, str]]]) -> Iterable[Problem]:
    ours = expected.bodies.keys() | {f"backline.{name}" for name in expected.tables}
    for kind, text in (
        ("unusable", "The role service_role cannot use"),
        ("exposed", "Any role may use"),
    ):
        names = sorted(name for name, _ in found[kind] if name in ours)
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield Problem("privileges", f"{text} {names[0]}{more}.", MIGRATE)


async def _leftover_triggers(connector: Connector, tables: set[tuple[str, str]]) -> list[Problem]:
    """Return the triggers on user tables that belong to no collection."""
    if ("collections", "") not in tables:
        return []
    try:
        rows = await connector.fetch(query("leftover_triggers"))
    except errors.PermissionDeniedError:
        return []
    return [
        Problem(
            "leftover trigger",
            f"The trigger {row['name']} on {row['relation']} belongs to no collection.",
            MIGRATE,
        )
        for row in rows
    ]


def _missing(kind: str, name: str) -> Problem:
    return Problem(kind, f"The {kind} {name} is missing.", MIGRATE)
