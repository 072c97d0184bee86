import asyncio
import random
import threading

import pytest

from bertcls.serve.batcher import Batcher


class Recorder:
    """Doubles numbers, keeps the batches, and lets a test hold the first one back."""

    def __init__(self):
        self.batches, self.gate, self.begun = [], threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, items: list) -> list:
        self.batches.append(list(items))
        self.begun.set()
        assert self.gate.wait(30)
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]


def width(item: int) -> tuple[int, int]:
    return 1, abs(item)


def run(test, recorder: Recorder | None = None, **options):
    """Runs a coroutine function with a started batcher, which is closed after it."""

    async def main():
        batcher = Batcher(recorder or Recorder(), **{"size": width, "max_cost": 100} | options)
        batcher.start()
        try:
            return await asyncio.wait_for(test(batcher), 30)
        finally:
            await batcher.close()

    return asyncio.run(main())


async def hold(batcher: Batcher, recorder: Recorder, item: int = 1) -> asyncio.Task:
    """A batch that runs until the gate opens."""
    recorder.gate.clear()
    task = asyncio.create_task(batcher.submit([item]))
    await asyncio.get_running_loop().run_in_executor(None, recorder.begun.wait, 30)
    return task


def test_each_gets_its_own_answers_in_its_order():
    draw, recorder = random.Random(0), Recorder()
    requests = [[draw.randint(1, 40) for _ in range(draw.randint(1, 9))] for _ in range(200)]

    async def test(batcher):
        return await asyncio.gather(*(batcher.submit(request) for request in requests))

    assert run(test, recorder) == [[2 * item for item in request] for request in requests]
    assert len(recorder.batches) < sum(map(len, requests)) / 2  # they shared
    assert sorted(sum(recorder.batches, [])) == sorted(sum(requests, []))
    assert all(len(batch) * max(batch) <= 100 for batch in recorder.batches)


def test_nothing_is_nothing():
    assert run(lambda batcher: batcher.submit([])) == []


def test_what_arrives_while_a_batch_runs_shares_the_next_one():
    recorder = Recorder()

    async def test(batcher):
        first = await hold(batcher, recorder)
        others = [asyncio.create_task(batcher.submit([item])) for item in (5, 6, 7)]
        await asyncio.sleep(0)
        recorder.gate.set()
        return await asyncio.gather(first, *others)

    assert run(test, recorder) == [[2], [10], [12], [14]]
    assert recorder.batches == [[1], [5, 6, 7]]


def test_batches_are_of_like_width_and_hold_the_oldest():
    recorder = Recorder()

    async def test(batcher):
        first = await hold(batcher, recorder)
        task = asyncio.create_task(batcher.submit([50, 3, 49, 4, 300, 2]))
        await asyncio.sleep(0)
        recorder.gate.set()
        await asyncio.gather(first, task)

    run(test, recorder)
    assert recorder.batches == [[1], [50, 49], [3, 4, 2], [300]]  # 300 is more than a batch may cost: alone


def test_what_nobody_waits_for_is_not_run():
    recorder = Recorder()

    async def test(batcher):
        first = await hold(batcher, recorder)
        gone, stays = (asyncio.create_task(batcher.submit([item, item])) for item in (5, 7))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        recorder.gate.set()
        return await asyncio.gather(first, stays)

    assert run(test, recorder) == [[2], [14, 14]]
    assert recorder.batches == [[1], [7, 7]]


def test_an_item_that_fails_fails_alone():
    recorder = Recorder()

    async def test(batcher):
        first = await hold(batcher, recorder)
        tasks = [asyncio.create_task(batcher.submit(items)) for items in ([5], [-6, -5], [7])]
        await asyncio.sleep(0)
        recorder.gate.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    before, failed, behind = run(test, recorder)
    assert (before, behind) == ([10], [14]) and isinstance(failed, ValueError)


def test_where_one_item_fails_the_rest_of_its_request_is_not_run():
    recorder = Recorder()

    async def test(batcher):
        with pytest.raises(ValueError, match="negative"):
            await batcher.submit([-90, 80, 60])  # each too wide to share; the second may have begun
        return await batcher.submit([7])

    assert run(test, recorder) == [14]
    assert recorder.batches[0] == [-90] and not any(60 in batch for batch in recorder.batches)


def test_a_result_too_few_is_an_error_and_no_swap():
    async def test(batcher):
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit([3, 4])

    run(test, lambda items: items[1:])


def test_waiting_for_company_ends_when_the_batch_is_full():
    recorder = Recorder()

    async def test(batcher):
        one = asyncio.create_task(batcher.submit([50]))
        await asyncio.sleep(0.01)
        assert recorder.batches == [] and not one.done()  # it waits
        return await asyncio.gather(one, batcher.submit([50]))

    assert run(test, recorder, max_wait=3600) == [[100], [100]]
    assert recorder.batches == [[50, 50]]


def test_closing_finishes_what_was_submitted_and_takes_nothing_new():
    recorder = Recorder()

    async def test(batcher):
        task = asyncio.create_task(batcher.submit([5, 6]))
        await asyncio.sleep(0)
        await batcher.close()  # although they would wait for company
        assert not batcher.running
        with pytest.raises(RuntimeError, match="does not run"):
            await batcher.submit([7])
        return await task

    assert run(test, recorder, max_wait=3600) == [10, 12]
    assert recorder.batches == [[5, 6]]
