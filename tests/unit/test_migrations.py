"""Migrations are built from the schema files, and released ones never change."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest
from scripts import migrations as script

from backline.sql import migrations

SQL = script.ROOT / script.SQL
NEXT_RELEASE = datetime(2027, 3, 1)
FILES = sorted(SQL.rglob("*.sql"))


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Return a copy of the SQL folder in which everything is frozen."""
    folder = tmp_path / "sql"
    shutil.copytree(SQL, folder)
    (folder / "schema" / "frozen.txt").write_text(script.freeze(folder))
    return folder


def test_generated_files_are_up_to_date() -> None:
    assert script.stale(script.ROOT) == []


def test_the_package_ships_what_is_built() -> None:
    built = script.migrations(SQL)
    assert {f"{m.version}_{m.name}.sql": m.sql for m in migrations()} == built


def test_every_schema_file_has_a_place_in_the_order() -> None:
    existing = {
        file.relative_to(SQL / "schema").with_suffix("").as_posix()
        for file in SQL.glob("schema/*/*.sql")
    }
    assert sorted(existing) == sorted(script.topics(SQL))


def test_only_files_of_the_music_studio_lack_the_core_prefix() -> None:
    others = [m.name for m in migrations() if not m.name.startswith("backline")]
    assert others
    assert all(name.startswith("music") for name in others)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SQL)))
def test_sql_files_are_short_and_narrow(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert len(lines) <= 500
    assert [line for line in lines if len(line) > 110] == []
    # Postgres would look for tables and types in pg_temp first.
    assert [line for line in lines if "set search_path = ''" in line] == []


def test_nothing_is_built_after_a_freeze_without_a_change(released: Path) -> None:
    assert script.migrations(released, NEXT_RELEASE) == script.migrations(SQL)


def test_a_changed_function_becomes_a_migration_with_the_privileges(released: Path) -> None:
    queue = released / "schema" / "functions" / "queue.sql"
    queue.write_text(queue.read_text() + "\nselect 1;\n")
    built = script.migrations(released, NEXT_RELEASE)
    added = sorted(built.keys() - script.migrations(SQL).keys())
    assert added == [
        "20270301000000_backline_queue_functions.sql",
        "20270301000100_backline_privileges_functions.sql",
    ]
    assert built[added[0]].endswith("\nselect 1;\n")


def test_a_new_table_file_becomes_a_migration(released: Path) -> None:
    (released / "schema" / "tables" / "later.sql").write_text("select 1;\n")
    order = released / "schema" / "order.txt"
    order.write_text(
        order.read_text().replace("functions/text\n", "tables/later\nfunctions/text\n")
    )
    added = script.migrations(released, NEXT_RELEASE).keys() - script.migrations(SQL).keys()
    assert "20270301000000_backline_later_tables.sql" in added


def test_a_released_table_file_cannot_change(released: Path) -> None:
    queue = released / "schema" / "tables" / "queue.sql"
    queue.write_text(queue.read_text() + "\nselect 1;\n")
    with pytest.raises(script.FrozenError, match=r"schema/tables/queue\.sql is released"):
        script.migrations(released, NEXT_RELEASE)


def test_a_released_migration_cannot_change(released: Path) -> None:
    first = min((released / "migrations").iterdir())
    first.write_text(first.read_text() + "\n")
    with pytest.raises(script.FrozenError, match=f"{first.name} is released"):
        script.migrations(released, NEXT_RELEASE)


def test_new_migrations_come_after_the_released_ones(released: Path) -> None:
    queue = released / "schema" / "functions" / "queue.sql"
    queue.write_text(queue.read_text() + "\nselect 1;\n")
    with pytest.raises(script.FrozenError, match="UNRELEASED must be later"):
        script.migrations(released, datetime(2026, 11, 21))
