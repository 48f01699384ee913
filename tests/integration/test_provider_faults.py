"""Everything that a provider does to those who rely on it: no row is lost, none paid for twice."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.integration.harness import (
    World,
    eventually,
    make_world,
    overpaid,
    quick_limiter,
    running,
    standin_embedder,
)
from tests.integration.poison import PoisonousProvider
from tests.provider import StandInProvider

from backline import errors
from backline.postgres.store import Store


def texts(count: int, *, but: dict[int, str] | None = None) -> list[str]:
    """Texts 1 to `count`, with some replaced."""
    return [(but or {}).get(n, f"text {n}") for n in range(1, count + 1)]


async def test_one_rejected_row_of_500_harms_itself_alone(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON", reject_message="I will not embed this.")
    await world.insert(*texts(500, but={321: "POISON"}))
    report = await world.fill(batch_size=50)
    assert (report.embedded, report.failed, report.state) == (499, 1, "completed")
    assert not report.complete
    [(key, error)] = (await world.failures()).items()
    assert key == "321"
    assert "I will not embed this." in error
    await world.check_complete(dead=["321"])
    assert overpaid(provider) == {}


async def test_a_dead_letter_is_not_sent_again_until_somebody_says_so(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good")
    await world.fill()
    calls = len(provider.calls)
    report = await world.fill()
    assert len(provider.calls) == calls
    assert report.due == 0
    provider.behave(reject_marker=None)
    assert await world.store.retry_failures(world.collection, ["1"]) == 1
    report = await world.fill()
    assert report.embedded == 1
    await world.check_complete()


async def test_a_dead_letter_whose_text_changes_is_due_again(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good")
    await world.fill()
    await world.sql("update notes set body = 'mended' where id = 1")
    assert await world.failures() == {}
    await world.fill()
    await world.check_complete()


async def test_rejected_rows_that_share_a_text_share_the_verdict(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good", "POISON")
    await world.fill()
    await world.check_complete(dead=["1", "3"])


async def test_special_tokens_are_text_like_any_other(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("<|endoftext|>", "say <|fim_prefix|> now", *texts(10))
    report = await world.fill()
    assert report.complete
    await world.check_complete()


async def test_rate_limits_end_by_themselves_and_count_no_attempt(
    world: World, provider: StandInProvider
) -> None:
    provider.fail_next(429, times=8, retry_after=1, message="Slow down.")
    await world.sql("update backline.collections set max_attempts = 1")
    world.collection = await world.store.collection("notes")
    await world.insert(*texts(100))
    report = await world.fill()
    assert (report.embedded, report.failed) == (100, 0)
    await world.check_complete()
    assert overpaid(provider) == {}
    assert [call.status for call in provider.calls].count(429) == 8


async def test_no_call_is_made_before_retry_after_has_passed(
    world: World, provider: StandInProvider
) -> None:
    world.limiter = quick_limiter(speed=1.0)
    provider.fail_next(429, retry_after=0.7)
    await world.insert(*texts(40))
    await world.fill(concurrency=4, batch_size=5)
    calls = provider.calls
    refused = next(call for call in calls if call.status == 429)
    on_the_wire = 0.05  # calls that left before the refusal came back
    later = [call for call in calls if call.started > refused.ended + on_the_wire]
    assert later
    assert min(call.started for call in later) >= refused.ended + 0.69
    await world.check_complete()


async def test_an_enforced_limit_of_requests_is_kept_to(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(requests_per_minute=4, limit_window_s=1.0)
    world.limiter = quick_limiter(speed=1.0)
    await world.insert(*texts(60))
    report = await world.fill(batch_size=5, concurrency=4)
    assert report.embedded == 60
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_server_errors_are_outlived(world: World, provider: StandInProvider) -> None:
    provider.fail_next(500, times=12)
    await world.insert(*texts(60))
    report = await world.fill()
    assert (report.embedded, report.failed) == (60, 0)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_dropped_connections_are_outlived(world: World, provider: StandInProvider) -> None:
    provider.drop_next(times=9)
    await world.insert(*texts(60))
    report = await world.fill()
    assert (report.embedded, report.failed) == (60, 0)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_an_answer_cut_in_the_middle_is_asked_for_again(
    world: World, provider: StandInProvider
) -> None:
    provider.drop_next(times=1, mid_answer=True)
    await world.insert(*texts(10))
    report = await world.fill(batch_size=10)
    assert report.embedded == 10
    await world.check_complete()
    # Only what was in flight at that moment was paid for twice.
    assert max(overpaid(provider).values()) == 1


@pytest.mark.parametrize("spoil", ["missing", "extra", "not json", "no data"])
async def test_a_malformed_answer_stores_nothing_wrong(
    world: World, provider: StandInProvider, spoil: str
) -> None:
    await world.insert(*texts(10))
    provider.behave(spoil=spoil)
    async with running(world.fill(batch_size=10)) as filling:
        await asyncio.to_thread(provider.wait_calls, 2)
        await world.check_consistent()
        rows = await world.sql("select count(*) as n from notes where embedding is not null")
        assert rows == [{"n": 0}]
        provider.behave(spoil="")
        await filling
    await world.check_complete()


async def test_a_provider_that_is_down_for_a_while(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(100))
    provider.go_down(1.5)
    report = await world.fill()
    assert (report.embedded, report.failed, report.state) == (100, 0, "completed")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_provider_that_stays_down_ends_the_run_and_loses_nothing(
    world: World, provider: StandInProvider
) -> None:
    await world.insert(*texts(50))
    provider.go_down(60)
    report = await world.fill(give_up_after=1.0)
    assert report.state == "interrupted"
    assert "run the same command again" in (report.stopped_by or "")
    assert (report.embedded, report.failed, report.coverage.failed) == (0, 0, 0)
    await world.check_consistent()
    assert set((await world.jobs()).values()) == {None}
    provider.reset()
    report = await world.fill()
    assert report.embedded == 50
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_patience_is_measured_from_the_first_failure(
    world: World, provider: StandInProvider
) -> None:
    """A long time without any need of the provider is not a long time without an answer."""
    async with world.syncing() as sync:
        await world.insert("first")
        await world.wait_until_idle()
    assert sync.settled == 1
    await world.insert(*texts(5), first=10)
    backfill = world.backfill(give_up_after=0.5, poll=0.05)
    with provider.held():  # one slow call, longer than the patience
        async with running(backfill.run()) as filling:
            await asyncio.to_thread(provider.wait_in_flight)
            await asyncio.sleep(0.8)
            provider.fail_next(500)
            provider.behave(held=False)
            report = await filling
    assert report.state == "completed"
    await world.check_complete()


async def test_a_poison_row_that_answers_500_does_not_stop_the_others(
    store: Store,
) -> None:
    with PoisonousProvider("POISON") as provider:
        async with make_world(store, provider) as world:
            await world.sql("update backline.collections set max_attempts = 2")
            world.collection = await store.collection("notes")
            await world.insert(*texts(100, but={50: "POISON"}))
            report = await world.fill(give_up_after=30)
            assert (report.embedded, report.failed) == (99, 1)
            assert "500" in (await world.failures())["50"]
            await world.check_complete(dead=["50"])
            assert overpaid(provider) == {}


async def test_everything_rejected_stops_early_and_says_so(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="text", reject_message="Unsupported input type.")
    await world.insert(*texts(200))
    report = await world.fill()
    assert report.state == "interrupted"
    assert "Unsupported input type." in (report.stopped_by or "")
    assert report.failed < 60
    await world.check_consistent()
    provider.behave(reject_marker=None)
    await world.store.retry_failures(world.collection, None)
    await world.fill()
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_a_wrong_key_stops_at_once_and_shows_nowhere(
    store: Store, provider: StandInProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-wrong-0123456789abcdef"
    embedder = standin_embedder(provider)
    await embedder.aclose()
    embedder = type(embedder)(
        "text-embedding-3-small", 8, base_url=provider.base_url, api_key=secret
    )
    async with make_world(store, provider, embedder=embedder) as world:
        await world.insert(*texts(50))
        began = time.monotonic()
        report = await world.fill()
        assert time.monotonic() - began < 10
        assert report.state == "interrupted"
        assert "401" in (report.stopped_by or "")
        assert secret not in str(report.as_dict())
        rows = await world.sql("select to_jsonb(r)::text as run from backline.runs r")
        assert secret not in str(rows)
        assert await world.failures() == {}
        await world.check_consistent()
        world.embedder = standin_embedder(provider)
        await world.fill()
        await world.check_complete()
        await world.embedder.aclose()
    shown = capfd.readouterr()
    assert secret not in shown.out + shown.err


async def test_no_credit_stops_at_once(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(50))
    provider.fail_next(429, times=100, code="insufficient_quota", message="You have no credit.")
    report = await world.fill()
    assert report.state == "interrupted"
    assert "credit" in (report.stopped_by or "")
    assert len(provider.calls) <= world.options.concurrency
    await world.check_consistent()


async def test_a_sync_outlives_an_outage(world: World, provider: StandInProvider) -> None:
    async with world.syncing() as sync:
        provider.go_down(1.0)
        await world.insert(*texts(30))
        await world.wait_until_idle()
    assert sync.settled >= 30
    await world.check_complete()


async def test_a_sync_that_is_refused_ends_with_the_reason(
    world: World, provider: StandInProvider
) -> None:
    provider.fail_next(401, times=10, message="Incorrect API key provided.")
    await world.insert("text")
    with pytest.raises(errors.ProviderRefusedError):
        async with world.syncing() as sync:
            await eventually(lambda: len(provider.calls) > 0, "a call")
            await asyncio.sleep(0.3)
            del sync
    await world.check_consistent()
    assert await world.sql("select * from backline.workers") == []


async def test_the_last_batch_with_poison_is_still_taken_apart(store: Store) -> None:
    """Nothing else is left that could show that the provider is well."""
    with PoisonousProvider("POISON") as provider:
        async with make_world(store, provider) as world:
            await world.sql("update backline.collections set max_attempts = 1")
            world.collection = await store.collection("notes")
            await world.insert(*texts(8, but={3: "POISON"}))
            report = await world.fill(batch_size=20)
            assert (report.embedded, report.failed) == (7, 1)
            await world.check_complete(dead=["3"])
