"""Provider faults lose no row, and no text is embedded twice."""

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
    texts,
)
from tests.integration.poison import PoisonousProvider
from tests.provider import StandInProvider

from backline import errors
from backline.postgres.store import Store


async def test_rejected_row_fails_alone_among_500(world: World, provider: StandInProvider) -> None:
    provider.behave(reject_marker="POISON", reject_message="I will not embed this.")
    await world.insert(*texts(500, replaced={321: "POISON"}))
    report = await world.fill(batch_size=50)
    assert (report.embedded, report.failed, report.state) == (499, 1, "completed")
    assert not report.complete
    [(key, error)] = (await world.failures()).items()
    assert key == "321"
    assert "I will not embed this." in error
    await world.check_complete(dead=["321"])
    assert overpaid(provider) == {}


async def test_dead_letter_is_sent_again_only_on_request(
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


async def test_edit_of_a_dead_letter_makes_it_due(world: World, provider: StandInProvider) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good")
    await world.fill()
    await world.sql("update notes set body = 'corrected' where id = 1")
    await world.apply_changes()
    assert await world.failures() == {}
    await world.fill()
    await world.check_complete()


async def test_rejected_text_fails_every_row_that_has_it(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(reject_marker="POISON")
    await world.insert("POISON", "good", "POISON")
    await world.fill()
    await world.check_complete(dead=["1", "3"])


async def test_special_tokens_are_treated_as_plain_text(
    world: World, provider: StandInProvider
) -> None:
    await world.insert("<|endoftext|>", "say <|fim_prefix|> now", *texts(10))
    report = await world.fill()
    assert report.complete
    await world.check_complete()


async def test_rate_limited_calls_count_as_no_attempt(
    world: World, provider: StandInProvider
) -> None:
    provider.fail_next(429, times=8, retry_after=1, message="Slow down.")
    await world.set_max_attempts(1)
    await world.insert(*texts(100))
    report = await world.fill()
    assert (report.embedded, report.failed) == (100, 0)
    await world.check_complete()
    assert overpaid(provider) == {}
    assert [call.status for call in provider.calls].count(429) == 8


async def test_no_call_starts_before_retry_after_has_passed(
    world: World, provider: StandInProvider
) -> None:
    world.limiter = quick_limiter(speed=1.0)
    provider.fail_next(429, retry_after=0.7)
    await world.insert(*texts(40))
    await world.fill(concurrency=4, batch_size=5)
    calls = provider.calls
    refused = next(call for call in calls if call.status == 429)
    in_transit = 0.05  # seconds in which a call may start before the response arrives
    later = [call for call in calls if call.started > refused.ended + in_transit]
    assert later
    assert min(call.started for call in later) >= refused.ended + 0.69
    await world.check_complete()


async def test_request_limit_of_the_provider_is_obeyed(
    world: World, provider: StandInProvider
) -> None:
    provider.behave(requests_per_minute=4, limit_window_s=1.0)
    world.limiter = quick_limiter(speed=1.0)
    await world.insert(*texts(60))
    report = await world.fill(batch_size=5, concurrency=4)
    assert report.embedded == 60
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_server_errors_are_retried(world: World, provider: StandInProvider) -> None:
    provider.fail_next(500, times=12)
    await world.insert(*texts(60))
    report = await world.fill()
    assert (report.embedded, report.failed) == (60, 0)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_dropped_connections_are_retried(world: World, provider: StandInProvider) -> None:
    provider.drop_next(times=9)
    await world.insert(*texts(60))
    report = await world.fill()
    assert (report.embedded, report.failed) == (60, 0)
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_truncated_response_is_requested_again(
    world: World, provider: StandInProvider
) -> None:
    provider.drop_next(times=1, mid_answer=True)
    await world.insert(*texts(10))
    report = await world.fill(batch_size=10)
    assert report.embedded == 10
    await world.check_complete()
    # Only the texts of that call were embedded twice.
    assert max(overpaid(provider).values()) == 1


@pytest.mark.parametrize("spoil", ["missing", "extra", "not json", "no data"])
async def test_malformed_response_stores_no_vector(
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


async def test_short_provider_outage_is_survived(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(100))
    provider.go_down(1.5)
    report = await world.fill()
    assert (report.embedded, report.failed, report.state) == (100, 0, "completed")
    await world.check_complete()
    assert overpaid(provider) == {}


async def test_lasting_provider_outage_interrupts_the_run_without_loss(
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


async def test_give_up_time_is_measured_from_the_first_failure(
    world: World, provider: StandInProvider
) -> None:
    """An idle time does not count, and a call counts from its start."""
    async with world.syncing() as sync:
        await world.insert("first")
        await world.wait_until_idle()
    assert sync.processed == 1
    await world.insert(*texts(5), first=10)
    backfill = world.backfill(give_up_after=2.0, poll=0.05)
    with provider.held():  # a slow call that fails
        async with running(backfill.run()) as filling:
            await asyncio.to_thread(provider.wait_in_flight)
            await asyncio.sleep(0.8)
            provider.fail_next(500)
            provider.behave(held=False)
            report = await filling
    assert report.state == "completed"
    await world.check_complete()


async def test_row_that_causes_status_500_fails_alone(
    store: Store,
) -> None:
    with PoisonousProvider("POISON") as provider:
        async with make_world(store, provider) as world:
            await world.set_max_attempts(2)
            await world.insert(*texts(100, replaced={50: "POISON"}))
            report = await world.fill(give_up_after=30)
            assert (report.embedded, report.failed) == (99, 1)
            assert "500" in (await world.failures())["50"]
            await world.check_complete(dead=["50"])
            assert overpaid(provider) == {}


async def test_rejection_of_every_text_interrupts_the_run_early(
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


async def test_wrong_key_interrupts_the_run_and_is_not_disclosed(
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
    output = capfd.readouterr()
    assert secret not in output.out + output.err


async def test_missing_credit_interrupts_the_run(world: World, provider: StandInProvider) -> None:
    await world.insert(*texts(50))
    provider.fail_next(429, times=100, code="insufficient_quota", message="You have no credit.")
    report = await world.fill()
    assert report.state == "interrupted"
    assert "credit" in (report.stopped_by or "")
    assert len(provider.calls) <= world.options.concurrency
    await world.check_consistent()


async def test_sync_survives_a_provider_outage(world: World, provider: StandInProvider) -> None:
    async with world.syncing() as sync:
        provider.go_down(1.0)
        await world.insert(*texts(30))
        await world.wait_until_idle()
    assert sync.processed >= 30
    await world.check_complete()


async def test_sync_ends_when_the_provider_refuses_its_key(
    world: World, provider: StandInProvider
) -> None:
    provider.fail_next(401, times=10, message="Incorrect API key provided.")
    await world.insert("text")
    with pytest.raises(errors.ProviderRefusedError):
        async with world.syncing():
            await eventually(lambda: len(provider.calls) > 0, "a call")
            await asyncio.sleep(0.3)
    await world.check_consistent()
    assert await world.sql("select * from backline.workers") == []


async def test_last_batch_with_a_failing_row_is_split(store: Store) -> None:
    """No later call can show that the provider works for other texts."""
    with PoisonousProvider("POISON") as provider:
        async with make_world(store, provider) as world:
            await world.set_max_attempts(1)
            await world.insert(*texts(8, replaced={3: "POISON"}))
            report = await world.fill(batch_size=20)
            assert (report.embedded, report.failed) == (7, 1)
            await world.check_complete(dead=["3"])
