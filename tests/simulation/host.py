"""The application: sessions that edit the table, in transactions of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import DictRow

from tests.simulation.history import Step
from tests.simulation.scheduler import Actor

KEYS: Final = 6
TEXTS: Final = ("A", "B", "C", "", None, " A ", "kick drum", "warm vocal vocal")

# Values of the table that a rename swaps: schema, table, key, text and vector.
NAMES: Final = {
    "schema": ("app", "other"), "table": ("notes", "memos"), "key": ("id", "number"),
    "text": ("body", "content"), "vector": ("embedding", "dense"),
}  # fmt: skip

# Statements, how often they occur, and whose text they can change: of the keys k and o, or of all.
WRITES: Final = (
    ("insert into {t} ({key}, {text}) values ({k}, {v})", 3, "some"),
    ("insert into {t} ({key}, {text}) values ({k}, {v}) on conflict ({key}) do update "
     "set {text} = excluded.{text}", 5, "some"),
    ("update {t} set {text} = {v} where {key} = {k}", 6, "some"),
    ("update {t} set views = views + 1 where {key} = {k}", 2, "none"),
    ("update {t} set views = views + 1", 1, "none"),
    ("update {t} set {text} = {text} where {key} = {k}", 1, "none"),
    ("update {t} set {key} = {o} where {key} = {k}", 2, "some"),
    ("update {t} set {key} = {o}, {text} = {v} where {key} = {k}", 1, "some"),
    ("update {t} set {key} = {key} + 1 where {key} in (5, 6)", 1, "all"),
    ("delete from {t} where {key} = {k}", 4, "some"),
    ("delete from {t} where {key} > {k}", 1, "all"),
    ("with gone as (delete from {t} where {key} = {k} returning *) "
     "insert into {t} ({key}, {text}) select {o}, {text} from gone on conflict do nothing",
     1, "some"),
    ("merge into {t} r using (values ({k}, {v}), ({o}, 'A')) as s (k, v) on r.{key} = s.k "
     "when matched and s.v is null then delete when matched then update set {text} = s.v "
     "when not matched then insert ({key}, {text}) values (s.k, s.v)", 2, "some"),
    ("update {t} set {text} = {v}", 1, "all"),
    ("update {t} set {text} = chr(ascii({text}) % 3 + 65) where {text} <> ''", 1, "all"),
    ("insert into {t} ({key}, {text}) select n, 'text ' || n from generate_series(1, {n}) n "
     "on conflict do nothing", 2, "all"),
    ("update {t} set {vector} = null where {key} = {k}", 1, "some"),
    ("truncate {t}", 1, "all"),
)  # fmt: skip
_WRITES: Final = [(text, scope) for text, weight, scope in WRITES for _ in range(weight)]
_ALL_KEYS: Final = frozenset(str(key) for key in range(1, 20))

CHANGES: Final = (
    "alter table {s}.{t} rename {key} to {other}", "alter table {s}.{t} rename {text} to {other}",
    "alter table {s}.{t} rename {vector} to {other}", "alter table {s}.{t} rename to {other}",
    "alter table {s}.{t} set schema {other}",
    "alter table {s}.{t} add column if not exists extra int default 0",
)  # fmt: skip
_CHANGED: Final = ("key", "text", "vector", "table", "schema", "")

# Failures that the bare table has too: a duplicate key, a deadlock, a serialization failure, and a
# statement that follows one of these in its transaction.
EXPECTED: Final = {"23505", "40P01", "40001", "25P02", "21000", "23502"}


@dataclass
class Names:
    """The present names of the table and its columns.

    Attributes:
        changing: a statement that changes them has begun, and may hold or await the table's lock.
        changed: until the triggers are made again, any update counts as an edit of the text.
    """

    changing: bool = False
    changed: bool = False

    present: dict[str, str] = field(
        default_factory=lambda: {kind: names[0] for kind, names in NAMES.items()}
    )

    def other(self, kind: str) -> str:
        """Return the name that the next rename gives."""
        first, second = NAMES[kind]
        return second if self.present[kind] == first else first

    def write(self, step: Step) -> tuple[str, frozenset[str]]:
        """Return the statement of a step that writes, and the keys whose text it can change."""
        value, names = TEXTS[step.b % len(TEXTS)], self.present
        key, other = step.b // 8 % KEYS + 1, step.b // 48 % KEYS + 1
        statement, scope = _WRITES[step.a % len(_WRITES)]
        keys = {"none": _ALL_KEYS if self.changed else frozenset[str](), "all": _ALL_KEYS}
        return statement.format(
            t=f"{names['schema']}.{names['table']}", key=names["key"], text=names["text"],
            vector=names["vector"], k=key, o=other,
            v="null" if value is None else f"'{value}'", n=step.b % 12 + 1,
        ), keys.get(scope, frozenset({str(key), str(other)}))  # fmt: skip

    def change(self, step: Step) -> tuple[str, str]:
        """Return the statement of a schema change, and which name it changes."""
        number = step.a % len(CHANGES)
        kind, names = _CHANGED[number], self.present
        other = self.other(kind) if kind else ""
        values = {**names, "s": names["schema"], "t": names["table"], "other": other}
        return CHANGES[number].format(**values), kind


@dataclass(eq=False)
class Host(Actor):
    """One session of the application.

    Attributes:
        on_edit: receives the keys of rows before and after an edit of them.
        edited: the keys of its edits that are not committed.
        prepared: it has prepared a transaction, which no session holds.
    """

    names: Names = field(kw_only=True)
    on_edit: Callable[[frozenset[str]], None] = field(kw_only=True)
    edited: frozenset[str] = frozenset()
    savepoint: bool = False
    prepared: bool = False

    async def step(self, step: Step) -> None:
        """Execute the statement of a step."""
        action = step.action
        if self.aborted and action != "rollback to":
            await self.execute("rollback")
        elif action == "write":
            await self._write(*self.names.write(step))
        elif action == "begin" and not self.in_transaction:
            level = "repeatable read" if step.a % 4 == 0 else "read committed"
            await self.execute(f"begin isolation level {level}")
            self.savepoint = False
        elif action in ("commit", "rollback") and self.in_transaction:
            await self.execute(action)
        elif action == "commit" and self.prepared:
            await self.end_prepared("commit" if step.a % 3 else "rollback")
        elif action == "change schema" and not self.in_transaction:
            await self._change(step)
        elif self.in_transaction:
            await self._within(action)

    async def _write(self, statement: str, keys: frozenset[str]) -> None:
        self.on_edit(keys)
        self.edited |= keys
        await self.execute(statement)

    async def _within(self, action: str) -> None:
        if action == "savepoint" and not self.aborted:
            await self.execute("savepoint s")
            self.savepoint = True
        elif action == "rollback to" and self.savepoint:
            await self.execute("rollback to s")
        elif action == "prepare" and not self.prepared and not self.aborted:
            self.prepared = True
            self.prepared = await self.execute(f"prepare transaction '{self.name}'")

    async def end_prepared(self, how: str) -> None:
        """Commit or roll back the prepared transaction."""
        await self.execute(f"{how} prepared '{self.name}'")
        self.prepared = False

    async def commit_prepared(self, other: AsyncConnection[DictRow]) -> None:
        """Commit the prepared transaction on another session: this one may wait for it."""
        self.on_edit(self.edited)
        await other.execute(sql.SQL("commit prepared {}").format(self.name))
        self.prepared = False

    async def _change(self, step: Step) -> None:
        statement, kind = self.names.change(step)
        self.names.changing = True
        other = self.names.other(kind) if kind else ""
        if await self.execute(statement) and kind:
            self.names.present[kind] = other
            self.names.changed = True
        self.names.changing = False

    @property
    def aborted(self) -> bool:
        """Whether its transaction has failed."""
        status = self.connection.info.transaction_status
        return status == psycopg.pq.TransactionStatus.INERROR

    async def execute(self, statement: str) -> bool:
        """Execute a statement; return whether it succeeded."""
        self.notes.append(statement)
        try:
            await self.connection.execute(statement)
        except psycopg.Error as error:
            context = error.diag.context or ""
            self.notes.append(f"fails: {error.diag.message_primary}")
            if error.sqlstate not in EXPECTED or "backline" in context:
                self.violations.append(f"{self.name}: {statement} fails: {error} {context}")
            return False
        finally:
            self.on_edit(self.edited)
            if not self.in_transaction and not self.prepared:
                self.edited = frozenset()
        return True
