"""The application: paths, errors, page, and a server that stops gently."""

import base64
import hashlib
import logging
import math
import os
import platform
import re
import time
from asyncio import Lock, sleep, timeout
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import torch
import transformers
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bertcls import __version__
from bertcls.inference import Prediction, TextClassifier
from bertcls.modeling import CONTRACT, MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.report.formats import SHADED, STRONG
from bertcls.report.page import load_template
from bertcls.serve.middleware import SMALL_BODY, RequestMiddleware, log
from bertcls.serve.schemas import OPEN_PATHS, ApiError, Limits, as_json, describe_interface, read_body
from bertcls.serve.service import Service
from bertcls.tokenization import Text
from bertcls.words import tells_words

SPARE_FILES = 64  # of those that the process may open: connections that wait are closed before none is left
HEAD_SECONDS = 10.0  # for the head of a request, at most
HEAD_BYTES = 65_536  # of a request
HALTED_SECONDS = 1.0  # after which a body that was under way is taken for one that does not come
PAUSE = 3  # times as long as a large body took to parse, nothing of its kind is parsed, and others have their turn
_POSTS = {"/query", "/predict"}


def make_app(
    classifier: TextClassifier,
    *,
    name: str,
    limits: Limits | None = None,
    api_key: str | None = None,
    log_texts: bool = False,
    hosts: Collection[str] | None = None,
) -> Starlette:
    """The application; its `state.service` is the `Service`.

    `name` is that of the model as it is shown, no path; requests have to bring the `api_key` (`Authorization: Bearer
    KEY`), but for the page, the docs and the health; `log_texts` writes texts into the log, too; `hosts` are the names
    in the header Host that are answered, `None` answers all.
    """
    limits = limits or Limits()
    config = classifier.model.config
    reads = {"kind": config.problem_type or SINGLE_LABEL, "pairs": config.pair_truncation is not None}
    reads |= {"words": tells_words(classifier.model)}
    numbers = {label: number for number, label in enumerate(classifier.label_names)}
    service = Service(classifier, limits, paths={*OPEN_PATHS, *_POSTS, "/info", "/metrics"})
    versions = {"bertcls": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    facts = {
        "model": name,
        "problem_type": reads["kind"],
        "pairs": reads["pairs"],
        "words": reads["words"],
        "labels": [] if reads["kind"] == REGRESSION else classifier.label_names,
        "contract": {key: getattr(config, key) for key in CONTRACT} | {"max_length": classifier.max_length},
        "limits": {key: value for key, value in asdict(limits).items() if key != "batch_tokens"},
        "device": classifier.device.type,
        "versions": versions | {"python": platform.python_version()},
    }

    large = Lock()

    async def parse(content: bytes, field: str) -> tuple[list[Text], dict]:
        if len(content) <= SMALL_BODY:
            return read_body(content, field, limits=limits, **reads)
        async with large:
            started = time.perf_counter()
            try:
                return read_body(content, field, limits=limits, **reads)
            finally:
                await sleep(PAUSE * (time.perf_counter() - started))

    async def answers(request: Request, field: str) -> tuple[list[Prediction], dict]:
        try:
            async with timeout(limits.seconds):
                texts, options = await parse(request.state.body, field)
                request.state.log.update({"texts": len(texts)} | ({"given": texts} if log_texts else {}))
                wanted = {name: options.get(name, False) for name in ("windows", "words")}
                return await service.predict(texts, request=request, answers=field == "texts", **wanted), options
        except TimeoutError as error:
            raise ApiError(504, "too_slow", f"No answer within {limits.seconds:g} seconds.") from error

    async def query(request: Request) -> Response:
        """Numbers of the labels: one for each sentence; lists of them for several labels, values for a regression."""
        found = [answer.label for answer in (await answers(request, "sentences"))[0]]
        if reads["kind"] == MULTI_LABEL:
            found = [[numbers[label] for label in labels] for labels in found]
        elif reads["kind"] != REGRESSION:
            found = [numbers[label] for label in found]
        return JSONResponse({"results": found})

    async def predict(request: Request) -> Response:
        """Labels with scores: for each text the label, its score, the probabilities of all labels and, where they are
        asked for, the answer for each window that a long text is read in, and what each word adds to the answer."""
        found, options = await answers(request, "texts")
        return JSONResponse({"predictions": [as_json(answer, options.get("abstain_below")) for answer in found]})

    async def health(request: Request) -> Response:
        """Whether it answers: 200 while it does, with the seconds that the call at work has taken so far; 503 where
        it hangs, and when the service is shutting down."""
        if not service.running:
            raise ApiError(500, "internal", "Texts are not answered any more; start the service again.")
        if (seconds := service.busy_seconds) > limits.seconds:
            message = f"A call that has begun {seconds:.0f} seconds ago does not end; start the service again."
            raise ApiError(503, "hung", message)
        return JSONResponse({"status": "ok", "busy_seconds": round(seconds, 3)})

    async def info(request: Request) -> Response:
        """The model and the limits: what it does to a text before it reads it, and what the service refuses."""
        return JSONResponse(facts)

    async def metrics(request: Request) -> Response:
        """Counts for Prometheus: requests, seconds, texts, and how full the forward passes are."""
        return Response(generate_latest(service.counts.registry), media_type=CONTENT_TYPE_LATEST)

    async def refuse(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            raise ApiError(405, "method_not_allowed", "The path knows other methods.", headers=error.headers)
        raise ApiError(404, "not_found", "No such path.")

    endpoints = {"/query": query, "/predict": predict, "/health": health, "/info": info, "/metrics": metrics}
    interface = describe_interface(endpoints, name=name, limits=limits, key=api_key is not None, **reads)
    fixed = {
        "/": _page(load_template("page.html").render(shaded=SHADED, strong=STRONG)),
        "/docs": _page(load_template("docs.html.jinja").render(document=interface, limits=asdict(limits))),
        "/openapi.json": JSONResponse(interface),
    }
    app = Starlette(
        routes=[
            *(Route(path, call, methods=["POST" if path in _POSTS else "GET"]) for path, call in endpoints.items()),
            *(Route(path, lambda request, response=response: response) for path, response in fixed.items()),
        ],
        middleware=[Middleware(RequestMiddleware, service=service, posts=_POSTS, api_key=api_key, hosts=hosts)],
        exception_handlers={HTTPException: refuse},
        lifespan=service.lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


def _page(content: str) -> Response:
    """A page that may run its own scripts and styles, and nothing else."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in found)
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(content, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


_OFFER = re.compile(rb"(?i)(?<=\r\n)upgrade(?=[ \t]*:)")


class _Connection(HttpToolsProtocol):
    """uvicorn's, with refusals as bodies of `ApiError`, and a limit for heads that do not end. An offer to upgrade is
    not seen: httptools would take the body behind it for another request."""

    head = 0  # bytes since the last head or piece of a body
    fed = 0.0  # when that came

    def data_received(self, data: bytes) -> None:
        self.head += len(data)
        super().data_received(_OFFER.sub(b"x-grade", data))  # as long, since bodies have a length; json holds none
        if self.head > HEAD_BYTES:
            if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
                self.transport.abort()  # the answer would be taken for that of the request before
            self.refuse(431, "head_too_large", f"Expected a head of at most {HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        self.head, self.fed = 0, time.monotonic()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.head, self.fed = 0, time.monotonic()
        super().on_body(body)

    def _unsupported_upgrade_warning(self) -> None:
        self.transport.abort()  # an offer that came in two pieces

    def send_400_response(self, message: str) -> None:
        self.refuse(400, "malformed_http", message)

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answers what is no request yet, and closes the connection; at once where its last answer is not read."""
        unread = self.transport.is_closing() or self.flow.write_paused
        log(logging.WARNING, "answer_not_read" if unread else code, client=self.client and self.client[0])
        if unread:
            return self.transport.abort()
        answer = JSONResponse(ApiError(status, code, message).body, headers={"connection": "close"})
        lines = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in answer.raw_headers), b"\r\n"]
        self.transport.write(b"".join(lines) + answer.body)
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn, with a limit of seconds for the head of each request, which at the first signal lets the service
    finish: what was accepted is answered, what comes after is told that it is stopping. A second signal ends it as
    uvicorn does."""

    def __init__(self, app: Starlette, **options: Any):
        self.service: Service = app.state.service
        # since when connections, at which request, expect a head or body, and how many bytes they have not read
        self.expecting: dict[tuple, tuple[float, int]] = {}
        self.most_connections = math.inf
        with suppress(ImportError):  # on Windows
            import resource

            if (files := resource.getrlimit(resource.RLIMIT_NOFILE)[0]) != resource.RLIM_INFINITY:
                self.most_connections = files - SPARE_FILES
        options["timeout_graceful_shutdown"] = math.ceil(self.service.limits.seconds) + 5  # for who does not read
        options |= {"http": _Connection, "ws": "none", "access_log": False, "server_header": False, "lifespan": "on"}
        super().__init__(uvicorn.Config(app, **options))

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.service.stopping:
            super().handle_exit(sig, frame)
        self.service.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        self.should_exit |= self.service.stopping and self.service.open_texts == 0
        now, most = time.monotonic(), self.service.limits.seconds
        expecting, order = {}, {}
        for one in self.server_state.connections:
            cycle, left = one.cycle, one.transport.get_write_buffer_size()
            body = cycle is not None and cycle.more_body and not cycle.response_complete
            if cycle is None or cycle.response_complete or body or one.flow.write_paused:  # answer not read
                known = self.expecting.get((one, cycle), (now, left))
                expecting[one, cycle] = known if left >= known[1] else (now, left)
                halted = body and now - one.fed > HALTED_SECONDS and not one.pipeline
                order[one] = not halted, body, cycle is not None, *expecting[one, cycle]
        self.expecting = expecting
        many = len(self.server_state.connections) - self.most_connections
        # bodies that do not come first, then new connections
        for number, (one, (_, body, _, since, left)) in enumerate(sorted(order.items(), key=itemgetter(1))):
            seconds = most if left else min(most, HEAD_SECONDS)
            if now - since > seconds and not body:  # whose time the middleware limits
                message = f"The head of a request did not arrive within {seconds:g} seconds."
                one.refuse(408, "head_too_slow", message)
            elif number < many:
                one.refuse(503, "crowded", "Too many connections are open; ask again later.")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list | None = None) -> None:
        await super().shutdown(sockets)
        if seconds := self.service.busy_seconds:  # else Python would wait for the thread
            log(logging.ERROR, "hung", seconds=round(seconds, 1))
            os._exit(1)
