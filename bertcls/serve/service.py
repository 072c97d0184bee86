"""A trained model that answers many requests at once, and counts for whoever watches it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.requests import Request

from bertcls.inference import Encoded, Prediction, Text, TextClassifier
from bertcls.serve.batcher import Batcher
from bertcls.serve.schemas import ApiError, Limits

QUEUE_CHARACTERS = 4_000_000  # of texts that wait; their tokens take some 0.16 KiB a character
# Measured on one core with MiniLM: as fast a token as larger ones, and less is padded. TOKENS_PER_BATCH_CPU of
# inference is larger: there all texts are at hand, so sorted by length they pad little, and none waits for an answer.
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 16384


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class RequestCounts:
    """Counts for Prometheus, in a registry of their own. Requests of other paths are counted as `other`."""

    def __init__(self, paths: set[str]):
        self.paths = paths
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        given = {"registry": self.registry}
        self.requests = Counter("bertcls_requests", "Requests answered", ["path", "status"], **given)
        self.seconds = Histogram("bertcls_request_seconds", "From a request to its answer", ["path"], **given)
        self.texts = Counter("bertcls_texts", "Texts labelled", **given)
        self.open_texts = Gauge("bertcls_open_texts", "Texts accepted and not answered yet", **given)
        sizes = {"buckets": [2**n for n in range(15)], **given}
        self.forward_texts = Histogram("bertcls_forward_texts", "Texts that shared a forward pass", **sizes)
        self.forward_tokens = Histogram("bertcls_forward_tokens", "Tokens of a forward pass", **sizes)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts one request."""
        path = path if path in self.paths else "other"
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)


class Service:
    """A classifier that answers many requests at once.

    Texts are tokenized on one thread and labelled on another, so that the event loop stays free; those that arrive
    together share a forward pass.
    """

    def __init__(self, classifier: TextClassifier, limits: Limits, counts: RequestCounts):
        self.classifier, self.limits, self.counts = classifier, limits, counts
        self.stopping = False  # new requests are refused
        self.open_requests = self.open_texts = self.open_characters = 0
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")  # fast tokenizers keep state
        default = CPU_BATCH_TOKENS if classifier.device.type == "cpu" else GPU_BATCH_TOKENS
        self._batcher = Batcher(
            self._forward, size=_padded_size, max_cost=limits.batch_tokens or default, max_wait=limits.wait
        )
        counts.open_texts.set_function(lambda: self.open_texts)

    @property
    def running(self) -> bool:
        """Whether texts are answered."""
        return self._batcher.running and not self.stopping

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Works while the application does, and finishes what was accepted."""
        self._batcher.start()
        yield
        self.stopping = True
        await self._batcher.close()
        self._tokenizing.shutdown()

    async def predict(self, texts: list[Text], *, windows: bool, request: Request) -> list[Prediction]:
        """Answers for the texts of a request, in their order; `ClientGone` where nobody waits for them any more."""
        with self._admitted(len(texts), sum(len(part) for text in texts for part in text)):
            try:
                async with asyncio.timeout(self.limits.seconds):
                    return await _unless_gone(request, self._answers(texts, windows))
            except TimeoutError as error:
                raise ApiError(504, "too_slow", f"No answer within {self.limits.seconds:g} seconds.") from error

    async def _answers(self, texts: list[Text], windows: bool) -> list[Prediction]:
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._tokenizing, lambda: self.classifier.encode(texts, windows=windows))
        return await self._batcher.submit(encoded)

    def _forward(self, encoded: list[Encoded]) -> list[Prediction]:
        self.counts.forward_texts.observe(len(encoded))
        self.counts.forward_tokens.observe(sum(sum(map(len, one.columns["input_ids"])) for one in encoded))
        answers = self.classifier.predict_encoded(encoded)
        self.counts.texts.inc(len(answers))
        return answers

    @contextlib.contextmanager
    def _admitted(self, texts: int, characters: int) -> Iterator[None]:
        """Room in the queue, as long as the request is open."""
        waiting = max(QUEUE_CHARACTERS, self.limits.body)
        if self.open_texts + texts > self.limits.queue or self.open_characters + characters > waiting:
            raise ApiError(503, "queue_full", f"{self.open_texts} texts are waiting; ask again later.")
        self.open_requests += 1
        self.open_texts += texts
        self.open_characters += characters
        try:
            yield
        finally:
            self.open_requests -= 1
            self.open_texts -= texts
            self.open_characters -= characters


def _padded_size(encoded: Encoded) -> tuple[int, int]:
    """Rows and columns in a forward pass, which pads to multiples of 8."""
    windows, tokens = encoded.size
    return windows, -(-tokens // 8) * 8


async def _unless_gone(request: Request, work: Awaitable) -> Any:
    """The result of `work`, which is cancelled if the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
