"""`POST /api/upsert-embeddings` stores only vectors of the rows' own texts."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from tests.integration.harness import World, eventually, make_world
from tests.integration.server.harness import NOTES, Served, served, with_provider
from tests.provider import StandInProvider

from backline.server.reads import inspect

PATH = "/api/upsert-embeddings"
GONE = "There is no row with this id."


def body(*rows: tuple[Any, str]) -> dict[str, Any]:
    return {"collection": "notes", "rows": [{"id": key, "text": text} for key, text in rows]}


async def test_rows_are_embedded_and_stored(paid_server: Served, paid: World) -> None:
    await paid.insert("one", "two", "one", None)
    result = await paid_server.post(PATH, body((1, "one"), ("2", " two\n"), (3, "one"), (4, "")))
    took = result.pop("took_ms")
    assert took > 0
    assert result == {
        "success": True, "collection": "notes",
        "processed": 4, "updated": 4, "skipped": [], "failed": [],
        "dimensions": 8, "model": "openai/text-embedding-3-small (8 dimensions)",
    }  # fmt: skip
    await paid.check_complete()


async def test_same_text_is_embedded_once(
    paid_server: Served, paid: World, provider: StandInProvider
) -> None:
    await paid.insert("one", "two", "one")
    await paid_server.post(PATH, body((1, "one"), (3, "one")))
    again = await paid_server.post(PATH, body((1, "one"), (3, "one")))
    assert again["processed"] == 2 and again["updated"] == 0
    await paid.sql("insert into notes (id, body) values (9, 'one')")
    late = await paid_server.post(PATH, body((9, "one")))
    assert late["updated"] == 1
    assert dict(provider.texts_embedded) == {"one": 1}
    await paid.check_consistent()


async def test_changed_and_missing_rows_are_skipped_without_embedding(
    paid_server: Served, paid: World, provider: StandInProvider
) -> None:
    await paid.insert("today's text", "two")
    sent = body(
        (1, "yesterday's text"), (2, "two"), (77, "no row"), ("word", "x"),
        ("99999999999999999999", "x"), ("a\0b", "x"),
    )  # fmt: skip
    result = await paid_server.post(PATH, sent, 207)
    reasons = {each["id"]: each["reason"] for each in result["skipped"]}
    assert reasons.pop("1").startswith("The row's text differs")
    assert reasons == dict.fromkeys(["77", "word", "99999999999999999999", "a\0b"], GONE)
    assert (result["updated"], result["processed"], result["success"]) == (1, 6, True)
    assert dict(provider.texts_embedded) == {"two": 1}
    await paid.check_consistent()
    assert await paid.jobs() == {"1": None}


async def test_every_spelling_of_an_id_finds_its_row(server: Served, world: World) -> None:
    await world.insert("one")
    result = await server.post(PATH, body((" 007".replace("7", "1"), "one")))
    assert result["updated"] == 1
    twice = await server.post(PATH, body(("1", "one"), ("01", "another")), 207)
    assert [each["id"] for each in twice["skipped"]] == ["01"]
    await world.check_complete()


async def test_edit_during_embedding_is_not_overwritten(
    paid_server: Served, paid: World, provider: StandInProvider
) -> None:
    await paid.insert("before")
    with provider.held():
        request = asyncio.create_task(paid_server.post(PATH, body((1, "before")), 207))
        await eventually(lambda: provider.in_flight, "the text to be in flight")
        await paid.sql("update notes set body = 'after' where id = 1")
    [skipped] = (await request)["skipped"]
    assert skipped["id"] == "1" and "differs" in skipped["reason"]
    await paid.check_consistent()
    await paid.fill()
    await paid.check_complete()


async def test_locked_row_is_skipped_after_a_short_wait(server: Served, world: World) -> None:
    await world.insert("one", "two")
    async with world.another_user() as other:
        await other.execute("update notes set title = 'x' where id = 1")
        result = await server.post(PATH, body((1, "one"), (2, "two")), 207)
    assert result["updated"] == 1
    assert [each["id"] for each in result["skipped"]] == ["1"]
    assert "open transaction" in result["skipped"][0]["reason"]
    await world.check_consistent()


async def test_rejected_text_fails_only_its_own_row(
    paid_server: Served, paid: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="poison")
    await paid.insert("one", "poison", "three")
    result = await paid_server.post(PATH, body((1, "one"), (2, "poison"), (3, "three")), 207)
    assert (result["success"], result["updated"]) == (False, 2)
    [failed] = result["failed"]
    assert failed["id"] == "2" and "does not accept" in failed["error"]
    await paid.check_consistent()


async def test_refused_row_fails_alone(server: Served, world: World) -> None:
    await world.insert("one", "two", "three")
    await world.sql(
        "create function no() returns trigger language plpgsql as "
        "$$ begin if new.id = 2 then raise exception 'not this one'; end if; return new; end $$"
    )
    await world.sql(
        "create trigger no before update of embedding on notes for each row execute function no()"
    )
    result = await server.post(PATH, body((1, "one"), (2, "two"), (3, "three")), 207)
    assert result["updated"] == 2
    assert result["failed"][0]["id"] == "2" and "not this one" in result["failed"][0]["error"]
    await world.check_consistent()


@pytest.mark.parametrize(("status", "expected"), [(429, 429), (500, 503), (401, 502)])
async def test_provider_failure_is_an_error(
    paid_server: Served, paid: World, provider: StandInProvider, status: int, expected: int
) -> None:
    await paid.insert("one")
    provider.fail_next(status, times=5, retry_after=7 if status == 429 else None)
    response = await paid_server.http.post(PATH, json=body((1, "one")))
    assert response.status_code == expected, response.text
    assert response.headers.get("retry-after") == {429: "7", 503: "1"}.get(expected)
    assert provider.api_key not in response.text
    await paid.check_consistent()


async def test_too_many_rows_are_refused(world: World) -> None:
    async with served(world.store, max_rows=3) as server:
        problem = await server.post(PATH, body(*((n, "x") for n in range(4))), 413)
        assert "4 rows" in problem["detail"] and "3" in problem["detail"]


async def test_uuid_keys(store: Any, provider: StandInProvider) -> None:
    ddl = NOTES.replace("id bigint", "id uuid")
    key = uuid.uuid4()
    async with (
        make_world(store, provider, ddl=ddl) as world,
        served(store, **with_provider(provider)) as server,
    ):
        await world.sql("insert into notes (id, body) values (%s, 'one')", key)
        result = await server.post(PATH, body((str(key).upper(), "one"), ("not-a-uuid", "x")), 207)
        assert (result["updated"], len(result["skipped"])) == (1, 1)
        await world.check_complete()


PAIRS = "create table notes (id int, part text, body text, primary key (id, part))"
# Random characters do not compress, so that an index cannot hold more than 2,704 bytes of them.
LONG_KEY = "".join(chr(0x4E00 + hash(n) * 7919 % 20000) for n in range(890))


async def test_keys_that_no_row_can_have_are_skipped(store: Any) -> None:
    sent = ['["1", "a"]', "word", "7", '{"id": 1}', '["1"]', '["x", "a"]', "{", '["1", "a"', "[]"]
    async with make_world(store, ddl=PAIRS) as world:
        await world.sql("insert into notes values (1, 'a', 'one')")
        states = await inspect(store, world.collection, sent, [b""] * len(sent))
        assert [state.action for state in states] == ["changed"] + ["gone"] * 8
        async with served(store) as server:
            result = await server.post(PATH, body(*((key, "one") for key in sent)), 207)
        assert (result["updated"], result["failed"]) == (1, [])
        assert {each["reason"] for each in result["skipped"]} == {GONE}
        await world.check_complete()


async def test_key_that_is_too_long_fails_alone(store: Any) -> None:
    ddl = "create table notes (id text not null, body text); create unique index on notes (id)"
    async with make_world(store, ddl=ddl, key="id", into=None, column="embedding") as world:
        size = len(LONG_KEY.encode())
        assert 2500 < size < 2700
        await world.sql("insert into notes values (%s, 'one'), ('b', 'two')", LONG_KEY)
        async with served(store) as server:
            result = await server.post(PATH, body((LONG_KEY, "one"), ("b", "two")), 207)
        assert result["updated"] == 1
        [failed] = result["failed"]
        assert f"has {size} bytes, and at most 2500" in failed["error"]
        assert "shorter unique column" in failed["error"]
