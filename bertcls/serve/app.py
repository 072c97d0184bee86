"""The application: paths, errors, page, and a server that stops gently."""

import base64
import hashlib
import math
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from bertcls.inference import Text, TextClassifier
from bertcls.modeling import CONTRACT, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.report.page import load_template
from bertcls.serve.middleware import ApiError, Edge, Metrics
from bertcls.serve.schemas import HealthAnswer, InfoAnswer, as_json, field_name, make_schemas, responses
from bertcls.serve.service import Limits, Service

PAGE = Path(__file__).with_name("page.html")
_DOCS = "docs.html.jinja"
_OPEN_PATHS = {"/", "/health", "/docs", "/openapi.json"}  # without a key; they say nothing of texts


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
    QueryBody, QueryAnswer, PredictBody, PredictAnswer = make_schemas(kind, pairs, limits)

    def noted(request: Request, texts: list[Text]) -> None:
        request.scope["state"]["log"] |= {"texts": len(texts)} | ({"given": texts} if log_texts else {})

    @app.post("/query", summary="Numbers of the labels", responses=responses(QueryAnswer, api_key, body=True))
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

    @app.post("/predict", summary="Labels with scores", responses=responses(PredictAnswer, api_key, body=True))
    async def predict(body: PredictBody, request: Request) -> Response:
        """For each text, in the order given: the label, its score, the probabilities of all labels and, where they are
        asked for, the answer for each window that a long text is read in."""
        noted(request, body.texts)
        answers = await service.predict(body.texts, windows=body.windows, request=request, field="texts")
        below = getattr(body, "abstain_below", None)
        return JSONResponse({"predictions": [as_json(answer, below) for answer in answers]})

    @app.get("/health", summary="Whether it answers", responses=responses(HealthAnswer, None, more=(500, 503)))
    async def health() -> Response:
        """200 while texts are answered, 503 when it is shutting down."""
        if not service.running:
            raise ApiError(500, "internal", "Texts are not answered any more; start the service again.")
        return JSONResponse({"status": "ok"})

    @app.get("/info", summary="The model and the limits", responses=responses(InfoAnswer, api_key))
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

    @app.get("/metrics", summary="Counts for Prometheus", responses=responses(None, api_key) | plain)
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
        field = field_name(first["loc"])
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
