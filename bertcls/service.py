"""A trained model over HTTP: labels for programs, a page for people, counts for whoever watches it."""

import asyncio
import base64
import contextlib
import hashlib
import math
import platform
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model
from starlette.exceptions import HTTPException

from bertcls.batching import Batcher
from bertcls.edge import ERRORS, ApiError, ClientGone, Edge, Metrics
from bertcls.inference import Encoded, Prediction, Text, TextClassifier
from bertcls.modeling import CONTRACT, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.page import load_template
from bertcls.text import is_whole

QUEUE_CHARACTERS = 4_000_000  # of texts that wait; their tokens take some 0.16 KiB a character
# Measured on one core with MiniLM: as fast a token as larger ones, and less is padded. TOKENS_PER_BATCH_CPU of
# inference is larger: there all texts are at hand, so sorted by length they pad little, and none waits for an answer.
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 16384
PAGE = Path(__file__).with_name("service.html")
_DOCS = "docs.html.jinja"
_OPEN_PATHS = {"/", "/health", "/docs", "/openapi.json"}  # without a key; they say nothing of texts


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


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str = Field(description="for programs; it does not change")
    message: str = Field(description="for people")
    field: str | None = Field(None, description="of the request that is wrong; left out where none is")


class ErrorBody(BaseModel):
    """Every answer that is not the one hoped for."""

    error: ErrorDetail


def make_app(
    classifier: TextClassifier,
    *,
    name: str,
    limits: Limits | None = None,
    api_key: str | None = None,
    log_texts: bool = False,
) -> FastAPI:
    """The application; its `state.service` is the `Service`.

    Args:
        classifier: what answers.
        name: of the model, as it is shown: no path.
        limits: what is refused.
        api_key: that requests have to bring (`Authorization: Bearer KEY`), but for the page, the docs and the health.
        log_texts: write the texts of requests into the log, too.
    """
    limits = limits or Limits()
    config = classifier.model.config
    kind, pairs = config.problem_type or SINGLE_LABEL, config.pair_truncation is not None
    numbers = {label: number for number, label in enumerate(classifier.label_names)}
    metrics = Metrics({*_OPEN_PATHS, "/query", "/predict", "/info", "/metrics"})
    service = Service(classifier, limits, metrics)
    app = FastAPI(
        title="bertcls",
        description=f"Labels texts with {name}.",
        version=_version(),
        docs_url=None,  # FastAPI's own loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=service.lifespan,
    )
    app.state.service = service
    app.add_middleware(
        Edge,
        posts={"/query", "/predict"},
        open_paths=_OPEN_PATHS,
        max_body=limits.body,
        seconds=limits.seconds,
        api_key=api_key,
        metrics=metrics,
        stopping=lambda: service.stopping,
    )
    _answer_errors_alike(app)
    QueryBody, QueryAnswer, PredictBody, PredictAnswer = _schemas(kind, pairs, limits)

    def noted(request: Request, texts: list[Text]) -> None:
        request.scope["state"]["log"] |= {"texts": len(texts)} | ({"given": texts} if log_texts else {})

    @app.post("/query", summary="Numbers of the labels", responses=_responses(QueryAnswer, api_key, body=True))
    async def query(body: QueryBody, request: Request) -> Response:
        """The number of each sentence's label, in the order given.

        Of a model of several labels a text it is a list of numbers, of a regression the value.
        """
        noted(request, body.sentences)
        answers = await service.predict(body.sentences, windows=False, request=request, field="sentences")
        if kind == MULTI_LABEL:
            return JSONResponse({"results": [[numbers[label] for label in answer.label] for answer in answers]})
        return JSONResponse(
            {"results": [answer.label if kind == REGRESSION else numbers[answer.label] for answer in answers]}
        )

    @app.post("/predict", summary="Labels with scores", responses=_responses(PredictAnswer, api_key, body=True))
    async def predict(body: PredictBody, request: Request) -> Response:
        """For each text, in the order given: the label, its score, the probabilities of all labels and, where they are
        asked for, the answer for each window that a long text is read in."""
        noted(request, body.texts)
        answers = await service.predict(body.texts, windows=body.windows, request=request, field="texts")
        below = getattr(body, "abstain_below", None)
        return JSONResponse({"predictions": [_as_json(answer, below) for answer in answers]})

    @app.get("/health", summary="Whether it answers", responses=_responses(HealthAnswer, None, more=(500, 503)))
    async def health() -> Response:
        """200 while texts are answered, 503 when it is shutting down."""
        if not service.running:
            raise ApiError(500, "internal", "Texts are not answered any more; start the service again.")
        return JSONResponse({"status": "ok"})

    @app.get("/info", summary="The model and the limits", responses=_responses(InfoAnswer, api_key))
    async def info() -> Response:
        """What the model is, what it does to a text before it reads it, and what the service refuses."""
        return JSONResponse(
            {
                "model": name,
                "problem_type": kind,
                "pairs": pairs,
                "labels": [] if kind == REGRESSION else classifier.label_names,
                "contract": {key: getattr(config, key) for key in CONTRACT}
                | {"max_length": config.max_length or classifier.tokenizer.model_max_length},
                "limits": {key: value for key, value in asdict(limits).items() if key != "batch_tokens"},
                "device": classifier.device.type,
                "versions": {
                    "bertcls": _version(),
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                    "python": platform.python_version(),
                },
            }
        )

    plain = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text"}}

    @app.get("/metrics", summary="Counts for Prometheus", responses=_responses(None, api_key) | plain)
    async def counts() -> Response:
        """Requests, seconds, texts, and how full the forward passes are."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    page = PAGE.read_bytes()
    guard = {"content-security-policy": _policy(page.decode()), "referrer-policy": "no-referrer"}

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page, headers=guard)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> Response:
        content = _docs(app.openapi(), limits)
        return HTMLResponse(content, headers={"content-security-policy": _policy(content)})

    if api_key is not None:
        _declare_key(app)
    return app


class HealthAnswer(BaseModel):
    """It works."""

    status: Literal["ok"]


class InfoAnswer(BaseModel):
    """The model and the limits."""

    model: str
    problem_type: str
    pairs: bool
    labels: list[str]
    contract: dict[str, Any]
    limits: dict[str, float]
    device: str
    versions: dict[str, str]


def _schemas(kind: str, pairs: bool, limits: Limits) -> list[type[BaseModel]]:
    """Bodies and answers of `/query` and `/predict`, as they are for this model."""
    whole = Annotated[str, AfterValidator(_whole)]
    text = tuple[whole, whole] if pairs else whole
    items: dict[str, Any] = {"type": "string"}
    if pairs:
        items = {"type": "array", "items": items, "minItems": 2, "maxItems": 2}
    limit = f"at most {limits.texts} of at most {limits.characters} characters; more are refused with 413"
    many = {"type": "array", "items": items, "minItems": 1, "description": limit}

    def one_alone(value: Any) -> Any:
        return [value] if isinstance(value, str) and not pairs else value

    sentences = Annotated[
        list[text],
        BeforeValidator(one_alone),
        WithJsonSchema({"anyOf": [many, items]} if not pairs else many),
    ]
    texts = Annotated[list[text], WithJsonSchema(many)]
    label = {MULTI_LABEL: list[str], REGRESSION: float}.get(kind, str | None)
    number = {MULTI_LABEL: list[int], REGRESSION: float}.get(kind, int)
    fields = {
        "label": (label, ...),
        "score": (float | None, Field(description="probability of the label; none for a regression")),
        "probabilities": (dict[str, float], ...),
    }
    window = create_model(
        "Window",
        start=(int, Field(description="in the cleaned text (of a pair the second one), in characters")),
        end=(int, ...),
        text=(str, ...),
        **fields,
    )
    windows = (list[window] | None, Field(None, description="where they were asked for"))
    answer = create_model("PredictionOf", **fields, windows=windows)
    asked: dict[str, Any] = {
        "texts": (texts, ...),
        "windows": (bool, Field(False, strict=True, description="also answer for each window of a text")),
    }
    if kind == SINGLE_LABEL:
        described = "give no label, null, where the most probable one has a lower probability"
        asked["abstain_below"] = (float | None, Field(None, ge=0, le=1, strict=True, description=described))
    return [
        create_model("QueryBody", __config__=ConfigDict(extra="forbid"), sentences=(sentences, ...)),
        create_model("QueryAnswer", results=(list[number], ...)),
        create_model("PredictBody", __config__=ConfigDict(extra="forbid"), **asked),
        create_model("PredictAnswer", predictions=(list[answer], ...)),
    ]


def _whole(text: str) -> str:
    """The text, if all of its characters are."""
    if not is_whole(text):
        raise ValueError("half of a character (a lone surrogate) found")
    return text


def _as_json(answer: Prediction, abstain_below: float | None) -> dict:
    """A `Prediction` as the service gives it."""
    abstains = abstain_below is not None and answer.score < abstain_below
    result = {
        "label": None if abstains else answer.label,
        "score": answer.score,
        "probabilities": answer.probabilities,
    }
    if answer.windows is not None:
        result["windows"] = [asdict(window) for window in answer.windows]
    return result


def _responses(
    model: type[BaseModel] | None, api_key: str | None, *, body: bool = False, more: tuple[int, ...] = (500, 503)
) -> dict:
    """What a path may answer, for the OpenAPI document."""
    statuses = {*more, *((400, 408, 413, 415, 422, 504) if body else ()), *(() if api_key is None else (401,))}
    found: dict = {} if model is None else {200: {"model": model}}
    for status in sorted(statuses):
        meanings = [f"`{code}`: {meaning}" for (number, code), meaning in ERRORS.items() if number == status]
        found[status] = {"model": ErrorBody, "description": "; ".join(meanings)}
    return found


def _answer_errors_alike(app: FastAPI) -> None:
    """Errors of FastAPI as bodies of `ApiError`."""

    async def refused(request: Request, error: ApiError) -> Response:
        request.scope["state"]["log"]["code"] = error.code
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            where = f"{first['ctx']['error']} at character {first['loc'][-1]}"
            return await refused(request, ApiError(400, "malformed_json", f"The body is not valid JSON: {where}."))
        field = _field_name(first["loc"])
        message = f"{first['msg']} (in {field})."
        return await refused(request, ApiError(422, "invalid_field", message, field=field))

    async def other(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed", 400: "malformed_json"}
        texts = {404: "No such path.", 405: "The path knows other methods.", 400: "The body is not valid JSON."}
        found = ApiError(
            error.status_code,
            codes.get(error.status_code, "internal"),
            texts.get(error.status_code, "Refused."),
            headers=error.headers,
        )
        return await refused(request, found)

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, other)


def _field_name(loc: tuple) -> str:
    """Where a validation failed.

    >>> _field_name(("body", "texts", 3)), _field_name(("body",))
    ('texts[3]', 'body')
    """
    name = ""
    for part in loc[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name or "body"


def _declare_key(app: FastAPI) -> None:
    """Says in the OpenAPI document which paths need the key."""
    document = app.openapi()
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if path not in _OPEN_PATHS:
                operation["security"] = [{"key": []}]


def _policy(page: str) -> str:
    """A content security policy that allows a page its own scripts and styles, and nothing else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in found]
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _docs(document: dict, limits: Limits) -> str:
    """The OpenAPI document as a page that loads nothing."""
    return load_template(_DOCS).render(document=document, limits=asdict(limits))


def _version() -> str:
    from bertcls import __version__

    return __version__


class Server(uvicorn.Server):
    """uvicorn, which at the first signal lets the service finish: what was accepted is answered, what comes after is
    told that it is stopping. A second signal ends it as uvicorn does."""

    def __init__(self, app: FastAPI, **options: Any):
        self.service: Service = app.state.service
        options["timeout_graceful_shutdown"] = math.ceil(self.service.limits.seconds) + 5  # for who does not read
        super().__init__(uvicorn.Config(app, access_log=False, server_header=False, lifespan="on", **options))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Called at a signal."""
        if self.service.stopping:
            super().handle_exit(sig, frame)
        self.service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; `True` ends the server."""
        if self.service.stopping and self.service.open_requests == 0:
            self.should_exit = True
        return await super().on_tick(counter)
