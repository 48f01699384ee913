"""add refuses what cannot work, hints survive a shell, and commands ask for the collection."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from tests.integration.cli.conftest import BACKLINE, Cli, Outcome, Sql

NAME = """it's "$(touch pwned)" `touch pwned`; touch pwned & [bold] %s"""
OR_ANOTHER_NAME = "; or choose another --name"
SOURCE = Path(__file__).resolve().parents[3] / "src" / "backline"


def paste(cli: Cli, hint: str) -> Outcome:
    """Run a hint as a shell does, after checking that it is a call of backline."""
    assert hint.startswith("backline ")
    done = subprocess.run(
        ["bash", "-c", hint.replace("backline ", f"{BACKLINE} ", 1)],
        cwd=cli.folder, env=cli._environment({}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (hint, done.stdout, done.stderr)
    assert not (cli.folder / "pwned").exists(), hint
    return Outcome(done.returncode, done.stdout, done.stderr)


def hint_after(label: str, text: str) -> str:
    """Return the command that follows a label, to the end of its line."""
    found = re.search(rf"{label} (backline .*?)\.?$", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_every_hint_survives_a_shell(cli: Cli, sql: Sql, tickets: None) -> None:
    """The name holds what a shell expands, and what the console reads as markup."""
    add = ("add", "tickets", "--text", "{title}'s", "--model", "hash@8", "--name", NAME)
    cli(*add)
    error = cli(*add, "--column", "other", "--json", code=2).json["error"]
    paste(cli, hint_after("Drop it first:", error["message"].removesuffix(OR_ANOTHER_NAME)))
    added = cli(*add)
    assert "embedded  120 rows" in paste(cli, hint_after("Next:", added.out)).out
    sql("set session_replication_role = replica")  # no trigger sees the update
    sql("update tickets set embedding = null where id = 1")
    reconciled = paste(cli, hint_after("Run:", cli("verify", NAME, code=1).out))
    embed = hint_after("Embed:", reconciled.out)
    assert "embedded  1 row" in paste(cli, embed).out
    assert "Nothing to do" in paste(cli, embed).out
    assert (
        "No dead letters" in paste(cli, hint_after("See:", cli("failures", "retry", NAME).out)).out
    )
    changed = cli("model", "use", NAME, "hash@8")
    assert "embedded" in paste(cli, hint_after("again:", changed.out)).out
    assert NAME in cli("status").out


def test_hint_declares_the_same_collection_with_another_column(
    cli: Cli, sql: Sql, tickets: None
) -> None:
    """The hint keeps the name, the key, the template and the model."""
    declared: LiteralString = (
        "select name, key_columns, text_template, model_id from backline.collections"
    )
    cli("add", "tickets", "--text", "{title}'s $x", "--model", "hash@8", "--name", NAME)
    before = sql(declared)
    sql("alter table tickets alter column embedding type extensions.vector(9)")
    error = cli("backfill", NAME, "--json", code=2).json["error"]
    for command in hint_after("into a new column:", error["message"]).split(" && "):
        paste(cli, command)
    assert sql(declared) == before
    assert cli("backfill", NAME, "--json").json["complete"]


def test_hint_declares_an_sql_text_and_a_condition_again(cli: Cli, sql: Sql, tickets: None) -> None:
    declared: LiteralString = (
        "select name, text_template, text_expression, where_sql, text_sql from backline.collections"
    )
    added = cli(
        "add", "tickets", "--text-sql", "title || ' $x ' || body", "--where",
        "title <> 'it''s' and id > 20", "--model", "hash@8",
    )  # fmt: skip
    assert "Added tickets: 100 rows of public.tickets" in added.out
    before = sql(declared)
    sql("alter table tickets alter column embedding type extensions.vector(9)")
    error = cli("backfill", "tickets", "--json", code=2).json["error"]
    for command in hint_after("into a new column:", error["message"]).split(" && "):
        paste(cli, command)
    assert sql(declared) == before
    assert cli("backfill", "--json").json["complete"]


def test_condition_is_shown_and_changed(cli: Cli, tickets: None) -> None:
    cli("add", "tickets", "--text", "{title}", "--where", "id <= 100", "--model", "hash@8")
    cli("backfill")
    status = cli("status").out
    assert "100 of 100 rows embedded (100 %), 20 outside the condition" in status
    assert "condition  (r.id <= 100)" in status
    assert cli("status", "--json").json["collections"][0]["excluded"] == 20
    verified = cli("verify")
    assert "100 of 100 (100 %) have a valid vector" in verified.out
    assert "20 rows outside the condition" in verified.out
    assert cli("where", "tickets").out == "tickets embeds the rows where (r.id <= 100).\n"
    changed = cli("where", "tickets", "id > 10")
    assert changed.out == (
        "tickets embeds the rows where (r.id > 10).\n"
        "30 rows to update. Next: backline backfill tickets\n"
    )
    cli("backfill")
    assert "110 of 110" in cli("verify").out
    removed = cli("where", "tickets", "--none", "--json").json
    assert removed == {"collection": "tickets", "where": None, "moved": 10}
    cli("backfill")
    assert "120 of 120" in cli("verify").out
    assert "every row" in cli("where", "tickets").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "tickets"], "Use one of --text and --text-sql"),
        (["add", "tickets", "--text", "{title}", "--text-sql", "title"], "Use one of --text and"),
        (["add", "tickets", "--text", "{title}", "--where", "now() > 'x'"], "invalid input syntax"),
        (["add", "tickets", "--text", "{title}", "--where", "now() > '2026-01-01'"],
         "depends on the time or on the session"),
        (["add", "tickets", "--text-sql", "titel"], "Its columns: id, title, body"),
        (["where", "all", "id > 1", "--none"], "A condition and --none exclude each other"),
        (["where", "all", "id"], "has the type integer, not boolean"),
        (["where", "all", "(select true)"], "has a subquery"),
    ],
)  # fmt: skip
def test_bad_text_or_condition_is_refused(
    cli: Cli, tickets: None, arguments: list[str], message: str
) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "hash@8", "--name", "all")
    if arguments[0] == "add":
        arguments = [*arguments, "--model", "hash@8", "--column", "other"]
    assert message in cli(*arguments, "--json", code=2).json["error"]["message"]
    assert cli("where", "all", "--json").json["where"] is None


def test_hint_mends_a_dropped_column(cli: Cli, sql: Sql, tickets: None) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "hash@8", "--name", NAME)
    sql("alter table tickets drop column embedding")
    error = cli("backfill", NAME, "--json", code=2).json["error"]
    paste(cli, hint_after("Run:", error["message"]))
    assert cli("backfill", NAME, "--json").json["complete"]


def test_no_hint_is_built_without_quoting() -> None:
    """A value goes into a command through errors.command, which quotes it."""
    unquoted = re.compile(r"""f["'][^"'\n]*\bbackline [a-z]+( [a-z]+)* (--[a-z]+ )?['"]?\{(?!\{)""")
    found = [
        f"{file.relative_to(SOURCE)}: {line.strip()}"
        for file in SOURCE.rglob("*.py")
        for line in file.read_text().splitlines()
        if unquoted.search(line)
    ]
    assert found == []


COMMENT = re.compile(r"(^|\s)--\s.*$", re.MULTILINE)
LITERAL = re.compile(r"'(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*")
COMMANDS = "add|backfill|drop|failures|index|model|reconcile|runs|search|status|sync|verify"
VALUE = re.compile(rf"backline (?:{COMMANDS})(?: [a-z]+)*(?: --[a-z]+)? (%[sIL]|$)")


def unquoted_hints(text: str) -> Iterator[str]:
    """Return the literals of SQL with a command that gets a value without shell_word()."""
    text = COMMENT.sub("", text)
    for literal in LITERAL.finditer(text):
        values = arguments(text[literal.end() :])
        for command in VALUE.finditer(literal[0][1:-1]):
            number = literal[0].count("%", 0, command.start(1) + 2)
            if "backline.shell_word(" not in (values[number] if command[1] else values[0]):
                yield literal[0]


def arguments(text: str) -> list[str]:
    """Return what follows a literal to the end of its call, split at the commas of the call."""
    depth, found = 0, [""]
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0 or character == ";":
            break
        if depth == 0 and character == ",":
            found.append("")
        else:
            found[-1] += character
    return found


def test_no_hint_of_the_schema_is_built_without_quoting() -> None:
    texts = [file.read_text() for file in (SOURCE / "sql" / "schema").rglob("*.sql")]
    assert [hint for text in texts for hint in unquoted_hints(text)] == []
    unquoted = [text.replace("backline.shell_word(", "(") for text in texts]
    assert len([hint for text in unquoted for hint in unquoted_hints(text)]) > 5


TABLE = """it's "$(touch pwned)"; touch pwned & [bold] %s"""
QUOTED = '"' + TABLE.replace('"', '""') + '"'
# What the host does to the table {t}, and the label of the command that mends it.
HOSTILE: dict[str, tuple[list[LiteralString], str]] = {
    "replaced": (
        ["create table n (like {t} including all)", "alter table {t} rename to old",
         "alter table n rename to {t}"], "Run:",
    ),
    "gone": (["drop table {t}"], "drop the collection:"),
    "text column gone": (
        ["alter table {t} drop title"],
        "Declare the collection again, with another text, condition or key:",
    ),
    "vector column gone": (["alter table {t} drop embedding"], "Run:"),
    "vector column of another type": (
        ["alter table {t} alter embedding type text", "alter table {t} drop embedding"],
        "then run:",
    ),
    "attached": (
        ["create table {p} (like {t} including all) partition by range (id)",
         "alter table {p} attach partition {t} for values from (0) to (100)"], "instead:",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_remedies_of_problems_survive_a_shell(cli: Cli, sql: Sql, name: str) -> None:
    def run(statement: LiteralString) -> None:
        parent = QUOTED.replace("it's", "parent's")
        sql(statement.replace("{t}", QUOTED).replace("{p}", parent).replace("%", "%%"))

    run("create table {t} (id int primary key, title text, body text)")
    run("insert into {t} values (1, 'one', 'text')")
    cli("add", f"public.{TABLE}", "--text", "{title}", "--model", "hash@8", "--name", NAME)
    statements, label = HOSTILE[name]
    for statement in statements[: 1 if "another type" in name else None]:
        run(statement)
    [status] = cli("status", NAME, "--json", code=1).json["collections"]
    remedies = [each["remedy"] for each in status["problems"]]
    [hint] = {hint_after(label, remedy) for remedy in remedies if label in remedy}
    if "another type" in name:  # the remedy is to drop it first
        run(statements[1])
    if "--text" in hint:
        hint = hint.replace("…", "{body}") + " --model hash@8"
    for command in hint.split(" && "):
        paste(cli, command)
    names = sql("select name from backline.collections")
    assert names == ([] if name == "gone" else names)
    if names:
        cli("backfill", "--json", code=None)
        assert cli("status", "--json").json["collections"][0]["problems"] == []


@pytest.mark.parametrize("name", ["My Notes", "o'clock", "täg-1", 'say "hi"'])
def test_table_is_named_as_it_stands(cli: Cli, sql: Sql, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    sql("create schema crm")
    create: LiteralString = "create table crm.%s (id int primary key, body text)"
    sql(create.replace("%s", quoted))
    sql("insert into crm.%s values (1, 'one')".replace("%s", quoted))
    added = cli("add", f"crm.{name}", "--text", "{body}", "--model", "hash@8")
    assert "embedded  1 row" in paste(cli, hint_after("Next:", added.out)).out
    assert cli("verify", f"crm.{name}", "--json").json["collection"] == name
    assert cli("search", "one", "--json").json["collection"] == name


# --- publications ---------------------------------------------------------------------------------


def test_published_table_needs_the_flag(cli: Cli, sql: Sql, tickets: None) -> None:
    sql("create publication copies for table tickets")
    add = ("add", "tickets", "--text", "{title}", "--model", "hash@8")
    refused = cli(*add, code=2)
    assert "published (copies)" in refused.err and "--published" in refused.err
    assert sql("select * from tickets where id = 1") == [(1, "ticket 1", "body of 1")]
    cli(*add, "--published")
    assert cli("backfill", "--json").json["complete"]


SWAP_WITHOUT_VECTORS = (
    "create table new (like tickets including all)",
    "alter table new drop column embedding",
    "insert into new select id, title, body from tickets",
    "alter table tickets rename to old",
    "alter table new rename to tickets",
)


@pytest.mark.parametrize(
    "statements", [("alter table tickets drop column embedding",), SWAP_WITHOUT_VECTORS]
)
def test_reconcile_adds_no_column_to_a_published_table_without_the_flag(
    cli: Cli, sql: Sql, collection: str, statements: tuple[LiteralString, ...]
) -> None:
    for statement in statements:
        sql(statement)
    sql("create publication copies for table tickets")
    before: LiteralString = (
        "select c::text, t::text from backline.collections c, tickets t where t.id = 1"
    )
    declared = sql(before)
    refused = cli("reconcile", collection, code=2).err
    assert "published (copies)" in refused
    assert f"backline reconcile {collection} --published" in refused
    assert sql(before) == declared
    cli("reconcile", collection, "--published")
    assert cli("backfill", "--json").json["complete"]


def test_reconcile_of_a_published_table_needs_no_flag_without_a_new_column(
    cli: Cli, sql: Sql, collection: str
) -> None:
    for statement in SWAP_WITHOUT_VECTORS:
        if "drop column" not in statement:
            sql(statement.replace("select id, title, body", "select *"))
    sql("create publication copies for table tickets")
    cli("reconcile", collection)
    assert cli("backfill", "--json").json["complete"]


def test_refused_update_prints_the_cure_and_no_line_of_the_driver(
    cli: Cli, sql: Sql, collection: str
) -> None:
    sql("alter table tickets replica identity nothing")
    sql("create publication copies for table tickets")
    for command in ("backfill", "sync"):
        ended = cli(command, code=1)
        assert "replica identity full" in ended.out + ended.err
        assert not re.search("psycopg|connection|Error\\b", ended.err), ended.err
    sql("alter table tickets replica identity full")
    assert cli("backfill", "--json").json["complete"]


def test_migrate_refuses_where_every_table_is_published(bare: Cli, empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("create publication copies for all tables")
    bare.environment["DATABASE_URL"] = empty_database
    assert "--published" in bare("migrate", code=2).err
    assert bare("migrate", "--published", "--json").json["applied"]


# --- the default collection -----------------------------------------------------------------------

ON_ONE_COLLECTION = [
    "backfill", "backfill --dry-run", "sync", "verify", "reconcile", "index", "failures list",
    "failures retry", "failures drop", "search ticket", "suggest ticket",
]  # fmt: skip


def test_one_of_several_collections_is_never_guessed(cli: Cli, collection: str) -> None:
    cli("migrate", "--music")
    for command in ON_ONE_COLLECTION:
        refused = cli(*command.split(), code=2).err
        assert "Say which collection: music_knowledge, tickets." in refused, command
        assert "--collection" in refused


def test_migrate_leaves_the_only_collection_the_default(bare: Cli, empty_database: str) -> None:
    bare.environment["DATABASE_URL"] = empty_database
    bare("migrate")
    (bare.folder / "t.jsonl").write_text('{"id": 1, "body": "I want a refund"}\n')
    bare("load", "t.jsonl", "--table", "tickets")
    bare("add", "tickets", "--text", "{body}", "--model", "hash@8")
    assert bare("backfill", "--json").json["collection"] == "tickets"
    assert "Verify tickets: passed" in bare("verify").out
    found = bare("search", "refund")
    assert found.out.startswith("tickets: 1 hit\n")
    assert [c["collection"] for c in bare("status", "--json").json["collections"]] == ["tickets"]
