"""Items that arrive together, run in one call on a thread of their own."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class _Job:
    item: Any
    rows: int
    width: int
    since: float
    future: asyncio.Future


class Batcher:
    """Collects items from many tasks of an event loop and runs them in batches, one batch at a time.

    A batch is padded to its widest item, so it takes the oldest item and, of those that wait, the ones closest to its
    width: little is padded, and none waits for ever. While a batch runs, the next one gathers; an item waits for
    company only where nothing else runs, at most `max_wait` seconds.

    `run` is called with a list of items on the thread, and gives as many results in their order; `size` gives the rows
    and columns of an item, whose product is at most `max_cost` in a batch; a larger item is a batch of its own.
    """

    def __init__(self, run: Callable[[list], Sequence], *, size: Callable, max_cost: int = 512, max_wait: float = 0.0):
        self._run, self._size, self.max_cost, self.max_wait = run, size, max_cost, max_wait
        self._waiting: list[_Job] = []
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._worker: asyncio.Task | None = None

    @property
    def running(self) -> bool:
        """Whether items are worked on."""
        return self._worker is not None and not self._worker.done()

    def start(self) -> None:
        """Called once, where an event loop runs."""
        self._worker = asyncio.create_task(self._work())

    async def submit(self, items: Sequence) -> list:
        """The results of items, in their order, or what `run` raised for one of them alone. Of a caller that is
        cancelled those that have not begun are not run."""
        if self._closing or not self.running:
            raise RuntimeError("Found a batcher that does not run; expected one that is started and not closed.")
        loop = asyncio.get_running_loop()
        jobs = [_Job(item, *self._size(item), loop.time(), loop.create_future()) for item in items]
        self._waiting += jobs
        self._arrived.set()
        try:
            return await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                job.future.cancel()

    async def close(self) -> None:
        """Finishes what was submitted, then ends the thread."""
        self._closing = True
        self._arrived.set()
        await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Runs a batch when there is enough for one, or the oldest item has waited long enough, until it is closed."""
        loop = asyncio.get_running_loop()
        while self._waiting or not self._closing:
            patience = self._waiting[0].since + self.max_wait - loop.time() if self._waiting else None
            full = sum(job.rows * job.width for job in self._waiting) >= self.max_cost
            if not (self._closing or full) and (patience is None or patience > 0):
                self._arrived.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), patience)
            elif batch := self._take():
                await self._run_batch(batch)

    def _take(self) -> list[_Job]:
        """The next batch, which waits no longer. What nobody waits for is dropped."""
        waiting = [job for job in self._waiting if not job.future.done()]
        batch, rows, width = [], 0, 0
        for job in sorted(waiting, key=lambda job: abs(job.width - waiting[0].width)):  # the oldest one is first
            if not batch or (rows + job.rows) * max(width, job.width) <= self.max_cost:
                batch.append(job)
                rows, width = rows + job.rows, max(width, job.width)
        taken = set(batch)
        self._waiting = [job for job in waiting if job not in taken]
        return batch

    async def _run_batch(self, batch: list[_Job]) -> None:
        try:
            items = [job.item for job in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
            if len(results) != len(batch):
                raise RuntimeError(f"Found {len(results)} results for {len(batch)} items; expected one each.")
        except Exception as error:
            if len(batch) > 1:  # one bad item must not fail its neighbours
                for job in batch:
                    await self._run_batch([job])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
        else:
            for job, result in zip(batch, results):
                if not job.future.done():
                    job.future.set_result(result)
