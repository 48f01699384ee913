"""`backline doctor`: a healthy database, and each fault with its remedy."""

from __future__ import annotations

from typing import Any

from tests.integration.cli.conftest import Cli, Sql


def findings(cli: Cli, code: int) -> dict[str, dict[str, Any]]:
    result = cli("doctor", "--json", code=code).json
    assert result["healthy"] == (code == 0)
    return {each["check"]: each for each in result["findings"]}


def test_doctor_names_each_fault_with_its_remedy(cli: Cli, sql: Sql, tickets: None) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "hash")
    healthy = findings(cli, 0)
    assert {each["state"] for each in healthy.values()} <= {"ok", "warning"}
    assert set(healthy) == {
        "connection", "pooler", "pgvector", "clock", "schema", "tickets: rights",
        "tickets: drift", "tickets: indexes", "tickets: model", "disk",
    }  # fmt: skip
    sql("alter table tickets disable trigger user")
    damaged = findings(cli, 1)
    faults = [each for each in damaged.values() if each["state"] == "failed"]
    assert faults and all(each["check"].startswith("tickets: ") for each in faults)
    assert all("backline reconcile" in each["remedy"] for each in faults)
    sql("drop function backline.complete")
    page = cli("doctor", code=1).out
    assert "failed  schema: " in page and "backline migrate" in page
    assert "tickets:" not in page


def test_doctor_names_a_second_index(cli: Cli, sql: Sql, tickets: None) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "hash")
    for name in ("one", "two"):
        sql(f"create index {name} on tickets using hnsw (embedding extensions.vector_cosine_ops)")
    found = findings(cli, 0)["tickets: indexes"]
    assert found["state"] == "warning" and "drop index concurrently" in found["remedy"]


def test_doctor_without_a_server_says_so(bare: Cli) -> None:
    result = bare("doctor", "--json", code=1, DATABASE_URL="postgresql://user@127.0.0.1:1/x").json
    checks = {each["check"]: each["state"] for each in result["findings"]}
    assert checks["connection"] == "failed" and set(checks) == {"connection", "disk"}
