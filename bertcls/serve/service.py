"""A trained model that answers many requests at once, and counts for whoever watches it."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.requests import ClientDisconnect, Request

from bertcls.inference import Prediction, TextClassifier
from bertcls.modeling import MULTI_LABEL
from bertcls.serve.batcher import Batcher
from bertcls.serve.schemas import ApiError, Limits
from bertcls.text import count_characters, portions
from bertcls.tokenization import Encoded, Text
from bertcls.words import MOST_LABELS, PASSES

QUEUE_CHARACTERS = 4_000_000  # of texts that wait; their tokens take some 0.16 KiB a character
# Measured on one core with MiniLM: as fast a token as larger ones, and less is padded. TOKENS_PER_BATCH_CPU of
# inference is larger: there all texts are at hand, so sorted by length they pad little, and none waits for an answer.
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 16384
CHARACTERS_AT_A_TIME = 20_000  # of a request that are tokenized before others have their turn
CHARACTERS_A_TOKEN = 16  # at most, of requests for words
CLOSING_SECONDS = 5  # for what is still at work when nobody waits for an answer any more


class RequestCounts:
    """Counts for Prometheus, in a registry of their own. Requests of other paths are counted as `other`."""

    def __init__(self, paths: set[str]):
        self.paths, self.registry = paths, CollectorRegistry()
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
        path = path if path in self.paths else "other"
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)


class Service:
    """A classifier that answers many requests at once.

    Texts are tokenized on one thread and labelled on another, so that the event loop stays free; those that arrive
    together share a forward pass. A request that needs many passes takes turns with others, within a text, too.
    """

    def __init__(self, classifier: TextClassifier, limits: Limits, *, paths: set[str]):
        self.classifier, self.limits, self.counts = classifier, limits, RequestCounts(paths)
        self.stopping = False  # new requests are refused
        self.open_texts = self.open_characters = 0
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")  # fast tokenizers keep state
        self._begun: dict[str, float] = {}  # when the calls that are at work on the threads began
        default = CPU_BATCH_TOKENS if classifier.device.type == "cpu" else GPU_BATCH_TOKENS
        run = partial(self._timed, "model", self._forward)
        self._batcher = Batcher(run, size=self._size, max_cost=limits.batch_tokens or default, max_wait=limits.wait)
        self.counts.open_texts.set_function(lambda: self.open_texts)

    @property
    def running(self) -> bool:
        """Whether texts are answered."""
        return self._batcher.running and not self.stopping

    @property
    def busy_seconds(self) -> float:
        """How long the call that is at work on a thread, if any, has taken so far."""
        return max((time.monotonic() - begun for begun in [*self._begun.values()]), default=0.0)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Works while the application does, and finishes what was accepted."""
        self._batcher.start()
        yield
        self.stopping = True
        with contextlib.suppress(TimeoutError):  # a thread that hangs is seen by its busy_seconds
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._batcher.close()
        self._tokenizing.shutdown(wait=False)

    async def predict(self, texts: list[Text], *, request: Request, **wanted: bool) -> list[Prediction]:
        """Answers for the texts of a request, in their order, with `windows` and `words` where these are wanted;
        without `answers` the labels alone are sent.

        Raises:
            ApiError: there is no room for them, or they are too long.
            ClientDisconnect: nobody waits for them any more.
        """
        characters = sum(map(count_characters, texts))
        room = max(QUEUE_CHARACTERS, self.limits.body) - self.open_characters
        if self.open_texts + len(texts) > self.limits.queue or characters > room:
            raise ApiError(503, "queue_full", f"{self.open_texts} texts are waiting; ask again later.")
        self.open_texts += len(texts)
        self.open_characters += characters
        try:
            return await _unless_gone(request, self._answers(texts, **wanted))
        finally:
            self.open_texts -= len(texts)
            self.open_characters -= characters

    async def _answers(self, texts: list[Text], **wanted: bool) -> list[Prediction]:
        encoded = await self._encode(texts, **wanted)
        most, found = self._batcher.max_cost, [{} for _ in texts]  # results by the first window of a part
        fitting = [one.size[0] if one.places else max(most // self._size(one)[1], 1) for one in encoded]  # a batch's
        parts = [(row, part) for row, one in enumerate(encoded) for part in one.parts(fitting[row])]
        parts.sort(key=lambda part: self._size(part[1])[1])  # like widths share a batch
        for portion in portions(parts, [math.prod(self._size(part)) for _, part in parts], most):  # a batch
            results = await self._batcher.submit([part for _, part in portion])
            for (row, part), result in zip(portion, results):
                found[row][part.start] = result
        answers = []
        for one, results in zip(encoded, found):
            if None not in results:  # the text was read in parts
                vectors = torch.cat([results[start] for start in sorted(results)])
                results[None] = await self._tokenizer(self.classifier.predict_vectors, one, vectors)
            answers.append(results[None])
        self.counts.texts.inc(len(answers))
        return answers

    async def _encode(self, texts: list[Text], *, answers: bool, windows: bool, words: bool) -> list[Encoded]:
        """Tokenizes, and refuses what would take or give too much."""
        encoded, limits = [], self.limits
        most = min(limits.tokens, limits.word_tokens) if words else limits.tokens
        room = CHARACTERS_A_TOKEN * most
        if words and (characters := sum(map(count_characters, texts))) > room:
            message = f"Found {characters} characters; expected at most {room} a request for words."
            raise ApiError(413, "too_many_tokens", message)  # they may be none of the model's, and are aligned
        names = sorted((2 * len(json.dumps(name)) + 30 for name in self.classifier.label_names), reverse=True)
        several = self.classifier.model.config.problem_type == MULTI_LABEL
        window_bytes, word_bytes = 150 + sum(names), 150 + sum(names[: MOST_LABELS if several else 1])
        for portion in portions(texts, map(count_characters, texts), CHARACTERS_AT_A_TIME):
            encoded += await self._tokenizer(self.classifier.encode, portion, windows=windows, words=words)
            if (tokens := sum(one.tokens for one in encoded)) > most:
                message = f"Found {tokens} tokens or more in the windows; expected at most {most} a request"
                raise ApiError(413, "too_many_tokens", f"{message}{' for words' if words else ''}.")
            spans = [span for one in encoded for span in one.spans or ()]
            size = (len(spans) + answers * len(encoded)) * window_bytes
            size += sum(6 * (end - start) for start, end in spans)  # \uffff has six
            size += words * tokens * word_bytes
            if size > limits.answer:
                message = f"Found texts whose answers take {size} bytes; expected at most {limits.answer}."
                field = "windows" if windows else "words" if words else None
                advice = "Ask without them." if field else "Send fewer."
                raise ApiError(413, "answer_too_large", f"{message} {advice}", field=field)
        return encoded

    async def _tokenizer(self, call: Callable, *args: Any, **options: Any) -> Any:
        """The result of a call on the thread of the tokenizer."""
        timed = partial(self._timed, "tokenizer", call, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, timed)

    def _timed(self, thread: str, call: Callable, *args: Any, **options: Any) -> Any:
        self._begun[thread] = time.monotonic()
        try:
            return call(*args, **options)
        finally:
            del self._begun[thread]

    def _forward(self, items: list[Encoded]) -> list[Prediction | torch.Tensor]:
        """Answers for texts, and window vectors for parts of them."""
        self.counts.forward_texts.observe(len(items))
        self.counts.forward_tokens.observe(sum(one.tokens for one in items))
        answers = iter(self.classifier.predict_encoded([one for one in items if one.start is None]))
        return [next(answers) if one.start is None else self.classifier.window_vectors(one) for one in items]

    def _size(self, encoded: Encoded) -> tuple[int, int]:
        """Rows and columns in a forward pass, as the collator pads them; with words so many more rows."""
        (windows, tokens), multiple = encoded.size, self.classifier.collator.pad_to_multiple_of
        windows *= PASSES if encoded.places else 1
        return windows, math.ceil(tokens / multiple) * multiple


async def _unless_gone(request: Request, work: Awaitable) -> Any:
    """The result of `work`, which is cancelled if the client leaves: all that comes after a body tells of it."""
    working, gone = tasks = [asyncio.ensure_future(one) for one in (work, request.receive())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()
