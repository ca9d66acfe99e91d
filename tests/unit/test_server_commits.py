"""The server's queue: who shares a transaction with whom, and who is told what."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence

import pytest

from sexton import errors
from sexton.api import Local
from sexton.model.records import Ack, Batch
from sexton.server import commits
from sexton.server.commits import Commits

SECONDS = 30


class Store(Local):
    """Stands for the database: notes each transaction, waits where told to, and fails for the runs it is told of."""

    def __init__(self) -> None:
        self.transactions: list[tuple[str, list[str]]] = []
        self.compacted: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.stuck: set[str] = set()
        self.ends: set[str] = set()
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def acting_as(self, actor: str) -> Local:
        self.actor = actor
        return self

    def commit(self, batches: Sequence[Batch]) -> tuple[list[Ack], set[str]]:
        self.entered.set()
        assert self.go_on.wait(SECONDS)
        runs = [batch.run for batch in batches]
        self.transactions.append((self.actor, runs))
        for run in runs:
            if run in self.failures:
                raise self.failures[run]
        return [Ack(batch.count) for batch in batches], self.ends & set(runs)

    def compact(self, due: Collection[str]) -> None:
        self.compacted += due
        if self.stuck & set(due):
            raise RuntimeError("unforeseen")


def batch(run: str, count: int = 1) -> Batch:
    return Batch(run, "w", 0, 0, count)


def during(store: Store, test: Callable[[Commits], Awaitable[None]]) -> None:
    """Run the test with a queue before the store, then stop the queue."""

    async def whole() -> None:
        queue = Commits(store)
        queue.start()
        try:
            await asyncio.wait_for(test(queue), SECONDS)
        finally:
            store.go_on.set()
            await asyncio.wait_for(queue.stop(), SECONDS)

    asyncio.run(whole())


async def all_queued(queue: Commits, *batches: Batch, actor: str = "me") -> list[asyncio.Task[list[Ack]]]:
    """A request for each batch, in this order."""
    tasks = [asyncio.create_task(queue.submit([one], actor, 10)) for one in batches]
    await asyncio.sleep(0)  # each has run up to where it waits
    return tasks


async def blocked(queue: Commits, store: Store) -> asyncio.Task[list[Ack]]:
    """A first request, whose commit goes on only when the store lets it."""
    store.go_on.clear()
    (task,) = await all_queued(queue, batch("first"))
    assert await asyncio.to_thread(store.entered.wait, SECONDS)
    return task


def test_all_that_waits_is_committed_at_once() -> None:
    store = Store()

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        tasks = await all_queued(queue, *(batch(f"run{number}", number) for number in range(20)))
        assert not first.done()
        store.go_on.set()
        assert await first == [Ack(1)]
        assert await asyncio.gather(*tasks) == [[Ack(number)] for number in range(20)]

    during(store, test)
    assert store.transactions == [("me", ["first"]), ("me", [f"run{number}" for number in range(20)])]


def test_a_transaction_has_an_end() -> None:
    store = Store()

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        tasks = await all_queued(queue, *(batch(f"run{number}") for number in range(2 * commits.GROUP_BATCHES + 5)))
        store.go_on.set()
        await asyncio.gather(first, *tasks)

    during(store, test)
    assert [len(runs) for _, runs in store.transactions] == [1, commits.GROUP_BATCHES, commits.GROUP_BATCHES, 5]


def test_a_request_is_never_cut() -> None:
    store = Store()
    size = commits.GROUP_BATCHES + 50

    async def test(queue: Commits) -> None:
        acks = await queue.submit([batch(f"run{number}", number) for number in range(size)], "me", 10)
        assert acks == [Ack(number) for number in range(size)]

    during(store, test)
    assert [len(runs) for _, runs in store.transactions] == [size]


@pytest.mark.parametrize("failure", [errors.InvalidRecord(run="bad", reason="odd"), ZeroDivisionError("unforeseen")])
def test_a_batch_that_fails_fails_alone(failure: Exception) -> None:
    store = Store()
    store.failures["bad"] = failure

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        one, bad, two = await all_queued(queue, batch("one", 11), batch("bad"), batch("two", 22))
        store.go_on.set()
        assert await first == [Ack(1)]
        assert await one == [Ack(11)]
        assert await two == [Ack(22)]
        with pytest.raises(type(failure)) as caught:
            await bad
        assert caught.value is failure
        assert await queue.submit([batch("later", 33)], "me", 10) == [Ack(33)]

    during(store, test)
    assert [runs for _, runs in store.transactions] == [
        ["first"],
        ["one", "bad", "two"],
        ["one"],
        ["bad"],
        ["two"],
        ["later"],
    ]


def test_a_store_that_is_away_is_not_asked_again_for_each() -> None:
    store = Store()
    store.failures["one"] = errors.StoreBusy(store="s", reason="locked")

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        tasks = await all_queued(queue, batch("one"), batch("two"), batch("three"))
        store.go_on.set()
        await first
        for task in tasks:
            with pytest.raises(errors.StoreBusy):
                await task

    during(store, test)
    assert [runs for _, runs in store.transactions] == [["first"], ["one", "two", "three"]]


def test_each_acts_in_his_own_name() -> None:
    store = Store()

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        tasks = []
        for actor, run in [("ann", "a1"), ("ann", "a2"), ("bob", "b1"), ("ann", "a3")]:
            tasks += await all_queued(queue, batch(run), actor=actor)
        store.go_on.set()
        await asyncio.gather(first, *tasks)

    during(store, test)
    assert store.transactions[1:] == [("ann", ["a1", "a2"]), ("bob", ["b1"]), ("ann", ["a3"])]


@pytest.mark.parametrize("limit", ["QUEUE_BATCHES", "QUEUE_BYTES"])
def test_who_comes_when_it_is_full_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    store = Store()
    monkeypatch.setattr(commits, limit, 30 if limit == "QUEUE_BYTES" else 3)  # each is 1 batch and 10 bytes

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        tasks = await all_queued(queue, batch("one"), batch("two"))
        with pytest.raises(errors.StoreBusy) as caught:
            await queue.submit([batch("three")], "me", 10)
        assert caught.value.transient
        store.go_on.set()
        await asyncio.gather(first, *tasks)
        assert await queue.submit([batch("three")], "me", 10) == [Ack(1)]

    during(store, test)
    assert [runs for _, runs in store.transactions] == [["first"], ["one", "two"], ["three"]]


def test_a_request_larger_than_the_queue_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(commits, "QUEUE_BYTES", 5)

    async def test(queue: Commits) -> None:
        assert await queue.submit([batch("huge")], "me", 10) == [Ack(1)]

    during(store, test)


def test_what_is_queued_is_committed_before_the_end() -> None:
    store = Store()

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        tasks = await all_queued(queue, batch("one"), batch("two"))
        stop = asyncio.create_task(queue.stop())
        await asyncio.sleep(0)
        store.go_on.set()
        await stop
        assert [await task for task in (first, *tasks)] == [[Ack(1)]] * 3

    during(store, test)


def test_ended_runs_are_compacted_and_a_failure_there_stops_nobody() -> None:
    store = Store()
    store.ends = {"one", "bad", "two"}
    store.stuck = {"bad"}

    async def test(queue: Commits) -> None:
        for run in ("one", "bad", "other", "two"):
            assert await queue.submit([batch(run)], "me", 10) == [Ack(1)]

    during(store, test)
    assert sorted(store.compacted) == ["bad", "one", "two"]


def test_who_went_away_keeps_nobody_waiting() -> None:
    store = Store()

    async def test(queue: Commits) -> None:
        first = await blocked(queue, store)
        gone, stays = await all_queued(queue, batch("gone"), batch("stays"))
        gone.cancel()
        store.go_on.set()
        assert await first == [Ack(1)]
        assert await stays == [Ack(1)]

    during(store, test)
