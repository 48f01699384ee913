"""Models that `backline.toml` declares, through the program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.cli.conftest import Cli
from tests.provider import StandInProvider

ENTRY = """
[[models]]
id = "compatible/house"
dimensions = 8
query = "q: "
passage = "{passage}"
price = 2
"""


@pytest.fixture
def house(cli: Cli, tickets: None) -> Iterator[StandInProvider]:
    """A server of the project's own, whose model `backline.toml` declares."""
    with StandInProvider(dialect="compatible", models={"house": 8}) as server:
        cli.environment |= {
            "BACKLINE_COMPATIBLE_BASE_URL": server.base_url,
            "BACKLINE_COMPATIBLE_API_KEY": server.api_key,
        }
        declare(cli, "p: ")
        yield server


def declare(cli: Cli, passage: str) -> None:
    (cli.folder / "backline.toml").write_text(ENTRY.format(passage=passage))


def test_declared_model_is_priced_prefixed_and_searched(cli: Cli, house: StandInProvider) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "compatible/house")
    assert house.calls == [], "its dimensions are declared"
    preview = cli("backfill", "tickets", "--dry-run", "--json").json
    assert preview["dollars"] == pytest.approx(preview["tokens"] * 2 / 1e6)
    cli("backfill", "tickets")
    assert {text[:3] for text in house.texts_embedded} == {"p: "}
    house.reset()
    assert cli("search", "tickets", "--mode", "semantic", "--json").json["hits"]
    assert list(house.texts_embedded) == ["q: tickets"]


def test_other_prefix_is_another_model(cli: Cli, house: StandInProvider) -> None:
    cli("add", "tickets", "--text", "{title}", "--model", "compatible/house")
    cli("backfill", "tickets")
    declare(cli, "passage: ")
    house.reset()
    refused = cli("backfill", "tickets", code=2).err
    assert "revision" in refused
    assert house.calls == []
    declare(cli, "p: ")
    cli("backfill", "tickets")


def test_models_of_another_file_are_refused(cli: Cli, house: StandInProvider) -> None:
    other = cli.folder / "other.toml"
    other.write_text(
        ENTRY.format(passage="x: ")
        + '\n[collections.tickets]\ntable = "tickets"\ntext = "{title}"\n'
    )
    refused = cli("apply", "other.toml", code=2).err
    assert "Move [[models]] to backline.toml" in " ".join(refused.split())
