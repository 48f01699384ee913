"""Everything that a provider does to those who rely on it: no row is lost, none paid for twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from tests.integration.harness import (
    World,
    eventually,
    overpaid,
    quick_limiter,
    running,
    standin_embedder,
    world,
)
from tests.integration.poison import PoisonousProvider
from tests.provider import StandInProvider

from backline import errors
from backline.postgres.store import Store


@pytest.fixture
async def w(store: Store, provider: StandInProvider) -> AsyncIterator[World]:
    async with world(store, provider) as made:
        yield made


def texts(count: int, *, but: dict[int, str] | None = None) -> list[str]:
    """Texts 1 to `count`, with some replaced."""
    return [(but or {}).get(n, f"text {n}") for n in range(1, count + 1)]


async def test_one_rejected_row_of_500_harms_itself_alone(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON", reject_message="I will not embed this.")
    await w.insert(*texts(500, but={321: "POISON"}))
    report = await w.fill(batch_size=50)
    assert (report.embedded, report.failed, report.state) == (499, 1, "completed")
    assert not report.complete
    [(key, error)] = (await w.failures()).items()
    assert key == "321"
    assert "I will not embed this." in error
    await w.check_complete(dead=["321"])
    assert overpaid(provider) == {}


async def test_a_dead_letter_is_not_sent_again_until_somebody_says_so(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", "good")
    await w.fill()
    calls = len(provider.calls)
    report = await w.fill()
    assert len(provider.calls) == calls
    assert report.due == 0
    provider.behave(reject_marker=None)
    assert await w.store.retry_failures(w.collection, ["1"]) == 1
    report = await w.fill()
    assert report.embedded == 1
    await w.check_complete()


async def test_a_dead_letter_whose_text_changes_is_due_again(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", "good")
    await w.fill()
    await w.sql("update notes set body = 'mended' where id = 1")
    assert await w.failures() == {}
    await w.fill()
    await w.check_complete()


async def test_rejected_rows_that_share_a_text_share_the_verdict(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await w.insert("POISON", "good", "POISON")
    await w.fill()
    await w.check_complete(dead=["1", "3"])


async def test_special_tokens_are_text_like_any_other(w: World, provider: StandInProvider) -> None:
    await w.insert("<|endoftext|>", "say <|fim_prefix|> now", *texts(10))
    report = await w.fill()
    assert report.complete
    await w.check_complete()


async def test_rate_limits_end_by_themselves_and_count_no_attempt(
    w: World, provider: StandInProvider
) -> None:
    provider.fail_next(429, times=8, retry_after=1, message="Slow down.")
    await w.sql("update backline.collections set max_attempts = 1")
    w.collection = await w.store.collection("notes")
    await w.insert(*texts(100))
    report = await w.fill()
    assert (report.embedded, report.failed) == (100, 0)
    await w.check_complete()
    assert overpaid(provider) == {}
    assert [call.status for call in provider.calls].count(429) == 8


async def test_no_call_is_made_before_retry_after_has_passed(
    w: World, provider: StandInProvider
) -> None:
    w.limiter = quick_limiter(speed=1.0)
    provider.fail_next(429, retry_after=0.7)
    await w.insert(*texts(40))
    await w.fill(concurrency=4, batch_size=5)
    calls = provider.calls
    refused = next(call for call in calls if call.status == 429)
    on_the_wire = 0.05  # calls that left before the refusal came back
    later = [call for call in calls if call.started > refused.ended + on_the_wire]
    assert later
    assert min(call.started for call in later) >= refused.ended + 0.69
    await w.check_complete()


async def test_an_enforced_limit_of_requests_is_kept_to(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(requests_per_minute=4, limit_window_s=1.0)
    w.limiter = quick_limiter(speed=1.0)
    await w.insert(*texts(60))
    report = await w.fill(batch_size=5, concurrency=4)
    assert report.embedded == 60
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_server_errors_are_outlived(w: World, provider: StandInProvider) -> None:
    provider.fail_next(500, times=12)
    await w.insert(*texts(60))
    report = await w.fill()
    assert (report.embedded, report.failed) == (60, 0)
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_dropped_connections_are_outlived(w: World, provider: StandInProvider) -> None:
    provider.drop_next(times=9)
    await w.insert(*texts(60))
    report = await w.fill()
    assert (report.embedded, report.failed) == (60, 0)
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_an_answer_cut_in_the_middle_is_asked_for_again(
    w: World, provider: StandInProvider
) -> None:
    provider.drop_next(times=1, mid_answer=True)
    await w.insert(*texts(10))
    report = await w.fill(batch_size=10)
    assert report.embedded == 10
    await w.check_complete()
    # Only what was in flight at that moment was paid for twice.
    assert max(overpaid(provider).values()) == 1


@pytest.mark.parametrize("spoil", ["missing", "extra", "not json", "no data"])
async def test_a_malformed_answer_stores_nothing_wrong(
    w: World, provider: StandInProvider, spoil: str
) -> None:
    await w.insert(*texts(10))
    provider.behave(spoil=spoil)
    async with running(w.fill(batch_size=10)) as filling:
        await asyncio.to_thread(provider.wait_calls, 2)
        await w.check_sound()
        rows = await w.sql("select count(*) as n from notes where embedding is not null")
        assert rows == [{"n": 0}]
        provider.behave(spoil="")
        await filling
    await w.check_complete()


async def test_a_provider_that_is_down_for_a_while(w: World, provider: StandInProvider) -> None:
    await w.insert(*texts(100))
    provider.go_down(1.5)
    report = await w.fill()
    assert (report.embedded, report.failed, report.state) == (100, 0, "completed")
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_a_provider_that_stays_down_ends_the_run_and_loses_nothing(
    w: World, provider: StandInProvider
) -> None:
    await w.insert(*texts(50))
    provider.go_down(60)
    report = await w.fill(give_up_after=1.0)
    assert report.state == "interrupted"
    assert "run the same command again" in (report.stopped_by or "")
    assert (report.embedded, report.failed, report.coverage.failed) == (0, 0, 0)
    await w.check_sound()
    assert set((await w.jobs()).values()) == {None}
    provider.reset()
    report = await w.fill()
    assert report.embedded == 50
    await w.check_complete()
    assert overpaid(provider) == {}


async def test_patience_is_measured_from_the_first_failure(
    w: World, provider: StandInProvider
) -> None:
    """A long time without any need of the provider is not a long time without an answer."""
    async with w.following() as sync:
        await w.insert("first")
        await w.settled()
    assert sync.settled == 1
    await w.insert(*texts(5), first=10)
    backfill = w.backfill(give_up_after=0.5, poll=0.05)
    with provider.held():  # one slow call, longer than the patience
        async with running(backfill.run()) as filling:
            await asyncio.to_thread(provider.wait_in_flight)
            await asyncio.sleep(0.8)
            provider.fail_next(500)
            provider.behave(held=False)
            report = await filling
    assert report.state == "completed"
    await w.check_complete()


async def test_a_poison_row_that_answers_500_does_not_stop_the_others(
    store: Store,
) -> None:
    with PoisonousProvider("POISON") as provider:
        async with world(store, provider) as w:
            await w.sql("update backline.collections set max_attempts = 2")
            w.collection = await store.collection("notes")
            await w.insert(*texts(100, but={50: "POISON"}))
            report = await w.fill(give_up_after=30)
            assert (report.embedded, report.failed) == (99, 1)
            assert "500" in (await w.failures())["50"]
            await w.check_complete(dead=["50"])
            assert overpaid(provider) == {}


async def test_everything_rejected_stops_early_and_says_so(
    w: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="text", reject_message="Unsupported input type.")
    await w.insert(*texts(200))
    report = await w.fill()
    assert report.state == "interrupted"
    assert "Unsupported input type." in (report.stopped_by or "")
    assert report.failed < 60
    await w.check_sound()
    provider.behave(reject_marker=None)
    await w.store.retry_failures(w.collection, None)
    await w.fill()
    await w.check_complete()
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
    async with world(store, provider, embedder=embedder) as w:
        await w.insert(*texts(50))
        began = time.monotonic()
        report = await w.fill()
        assert time.monotonic() - began < 10
        assert report.state == "interrupted"
        assert "401" in (report.stopped_by or "")
        assert secret not in str(report.as_dict())
        rows = await w.sql("select to_jsonb(r)::text as run from backline.runs r")
        assert secret not in str(rows)
        assert await w.failures() == {}
        await w.check_sound()
        w.embedder = standin_embedder(provider)
        await w.fill()
        await w.check_complete()
        await w.embedder.aclose()
    shown = capfd.readouterr()
    assert secret not in shown.out + shown.err


async def test_no_credit_stops_at_once(w: World, provider: StandInProvider) -> None:
    await w.insert(*texts(50))
    provider.fail_next(429, times=100, code="insufficient_quota", message="You have no credit.")
    report = await w.fill()
    assert report.state == "interrupted"
    assert "credit" in (report.stopped_by or "")
    assert len(provider.calls) <= w.options.concurrency
    await w.check_sound()


async def test_a_sync_outlives_an_outage(w: World, provider: StandInProvider) -> None:
    async with w.following() as sync:
        provider.go_down(1.0)
        await w.insert(*texts(30))
        await w.settled()
    assert sync.settled >= 30
    await w.check_complete()


async def test_a_sync_that_is_refused_ends_with_the_reason(
    w: World, provider: StandInProvider
) -> None:
    provider.fail_next(401, times=10, message="Incorrect API key provided.")
    await w.insert("text")
    with pytest.raises(errors.ProviderRefusedError):
        async with w.following() as sync:
            await eventually(lambda: len(provider.calls) > 0, "a call")
            await asyncio.sleep(0.3)
            del sync
    await w.check_sound()
    assert await w.sql("select * from backline.workers") == []


async def test_the_last_batch_with_poison_is_still_taken_apart(store: Store) -> None:
    """Nothing else is left that could show that the provider is well."""
    with PoisonousProvider("POISON") as provider:
        async with world(store, provider) as w:
            await w.sql("update backline.collections set max_attempts = 1")
            w.collection = await store.collection("notes")
            await w.insert(*texts(8, but={3: "POISON"}))
            report = await w.fill(batch_size=20)
            assert (report.embedded, report.failed) == (7, 1)
            await w.check_complete(dead=["3"])
