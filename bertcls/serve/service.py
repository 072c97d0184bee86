"""A trained model over HTTP: labels for programs, a page for people, counts for whoever watches it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import FastAPI, Request
from prometheus_client import Gauge

from bertcls.inference import Encoded, Prediction, Text, TextClassifier
from bertcls.serve.batcher import Batcher
from bertcls.serve.middleware import ApiError, ClientGone, Metrics

QUEUE_CHARACTERS = 4_000_000  # of texts that wait; their tokens take some 0.16 KiB a character
# Measured on one core with MiniLM: as fast a token as larger ones, and less is padded. TOKENS_PER_BATCH_CPU of
# inference is larger: there all texts are at hand, so sorted by length they pad little, and none waits for an answer.
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class Limits:
    """What the service refuses, and how long it waits.

    Args:
        texts: of a request.
        characters: of a text; of a pair, both together.
        body: bytes of a request.
        queue: texts that were accepted and not answered yet, over all requests.
        seconds: in which a request is answered.
        wait: seconds that a text waits for others to share a forward pass with.
        batch_tokens: padded tokens of a forward pass; `None` chooses by the device.

    Raises:
        ValueError: a limit of zero or less.
    """

    texts: int = 256
    characters: int = 100_000
    body: int = 2_000_000
    queue: int = 2048
    seconds: float = 30.0
    wait: float = 0.002
    batch_tokens: int | None = None

    def __post_init__(self):
        for name, value in asdict(self).items():
            if value is not None and (value < 0 if name == "wait" else value <= 0):
                raise ValueError(f"Found the limit {name}={value}; expected more than 0. Raise it.")


class Service:
    """A classifier that answers many requests at once.

    Texts are tokenized on one thread and labelled on another, so that the event loop stays free; those that arrive
    together share a forward pass.

    Args:
        classifier: what answers.
        limits: what is refused.
        metrics: where texts are counted.
    """

    def __init__(self, classifier: TextClassifier, limits: Limits, metrics: Metrics):
        self.classifier, self.limits, self.metrics = classifier, limits, metrics
        self.stopping = False  # new requests are refused
        self.open_requests = self.open_texts = self.open_characters = 0
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")  # fast tokenizers keep state
        on_cpu = classifier.device.type == "cpu"
        self._batcher = Batcher(
            self._forward,
            size=_padded_size,
            max_cost=limits.batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS),
            max_wait=limits.wait,
        )
        gauge = Gauge("bertcls_open_texts", "Texts accepted and not answered yet", registry=metrics.registry)
        gauge.set_function(lambda: self.open_texts)

    @property
    def running(self) -> bool:
        """Whether texts are answered."""
        return self._batcher.running and not self.stopping

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Works while the application does, and finishes what was accepted."""
        self._batcher.start()
        yield
        self.stopping = True
        await self._batcher.close()
        self._tokenizing.shutdown()

    async def predict(self, texts: list[Text], *, windows: bool, request: Request, field: str) -> list[Prediction]:
        """Answers for the texts of a request, in their order.

        Raises:
            ApiError: too many or too long texts, a full queue, no answer in time.
            ClientGone: nobody waits any more; what has not begun is not run.
        """
        lengths = [sum(map(len, text)) if isinstance(text, tuple) else len(text) for text in texts]
        self._check(lengths, field)
        with self._admitted(len(texts), sum(lengths)):
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
        self.metrics.forward_texts.observe(len(encoded))
        self.metrics.forward_tokens.observe(sum(sum(map(len, one.columns["input_ids"])) for one in encoded))
        answers = self.classifier.predict_encoded(encoded)
        self.metrics.texts.inc(len(answers))
        return answers

    def _check(self, lengths: list[int], field: str) -> None:
        if not lengths:
            raise ApiError(400, "no_texts", f"Found no text in {field}; expected at least one.", field=field)
        if len(lengths) > (most := min(self.limits.texts, self.limits.queue)):
            message = f"Found {len(lengths)} texts; expected at most {most} in a request."
            raise ApiError(413, "too_many_texts", message, field=field)
        for row, length in enumerate(lengths):
            if length > self.limits.characters:
                message = f"Found {length} characters in a text; expected at most {self.limits.characters}."
                raise ApiError(413, "text_too_long", message, field=f"{field}[{row}]")

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
    work = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
