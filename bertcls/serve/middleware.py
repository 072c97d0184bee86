"""What stands around the service's answers: errors with stable bodies, keys, sizes, logs and counts."""

import asyncio
import hmac
import json
import logging
import time
import traceback
import uuid
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

logger = logging.getLogger("bertcls.service")

HELD_BYTES = 64_000_000  # of bodies, over all requests that are open
GONE = 499  # the client left: in logs and counts only
ERRORS = {  # status, code: what it means
    (400, "malformed_json"): "the body is not JSON",
    (400, "no_texts"): "an empty list of texts",
    (401, "unauthorized"): "the API key is missing or wrong",
    (404, "not_found"): "no such path",
    (405, "method_not_allowed"): "the path knows other methods",
    (408, "body_too_slow"): "the body did not arrive in time",
    (413, "body_too_large"): "the body has too many bytes",
    (413, "too_many_texts"): "too many texts in one request",
    (413, "text_too_long"): "a text, named by `field`, has too many characters",
    (415, "unsupported_content_type"): "the body is not declared as application/json",
    (422, "invalid_field"): "a field, named by `field`, is missing, unknown or of the wrong type",
    (500, "internal"): "a defect of the service; its log has the request's id",
    (503, "queue_full"): "too much is waiting; `Retry-After` says when to ask again",
    (503, "stopping"): "the service is shutting down",
    (504, "too_slow"): "no answer in time",
}


class ApiError(Exception):
    """An answer other than the one hoped for.

    Args:
        status: of HTTP.
        code: as in `ERRORS`, for programs.
        message: for people.
        field: of the request that is wrong, such as `texts[3]`.
        headers: to send with it.
    """

    def __init__(
        self, status: int, code: str, message: str, *, field: str | None = None, headers: dict[str, str] | None = None
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})
        if status == 503:
            self.headers.setdefault("retry-after", "1")

    def body(self) -> dict:
        """`{"error": {"code", "message"}}`, and `field` where one is to blame."""
        field = {} if self.field is None else {"field": self.field}
        return {"error": {"code": self.code, "message": self.message, **field}}


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Metrics:
    """Counts for Prometheus, in a registry of their own.

    Args:
        paths: names that requests are counted under; all others are counted as `other`.
    """

    def __init__(self, paths: set[str]):
        self.paths = paths
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        given = {"registry": self.registry}
        self.requests = Counter("bertcls_requests", "Requests answered", ["path", "status"], **given)
        self.seconds = Histogram("bertcls_request_seconds", "From a request to its answer", ["path"], **given)
        self.texts = Counter("bertcls_texts", "Texts labelled", **given)
        self.forward_texts = Histogram(
            "bertcls_forward_texts", "Texts that shared a forward pass", buckets=[2**n for n in range(9)], **given
        )
        self.forward_tokens = Histogram(
            "bertcls_forward_tokens", "Tokens of a forward pass", buckets=[2**n for n in range(4, 15)], **given
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts one request."""
        path = path if path in self.paths else "other"
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)


class Edge:
    """ASGI middleware around the application.

    Refuses what need not be read: requests without the key, of another content type, too large. Turns every failure
    into a body of `ApiError`, logs one line a request, and gives each an id (`X-Request-ID`).

    Args:
        app: the application.
        posts: paths whose POST bodies are JSON.
        open_paths: paths that need no key.
        max_body: bytes of a body.
        seconds: in which a body has to arrive.
        api_key: `None` for no key.
        metrics: where requests are counted.
        stopping: says whether new requests are refused.
    """

    def __init__(
        self,
        app: Callable,
        *,
        posts: set[str],
        open_paths: set[str],
        max_body: int,
        seconds: float,
        api_key: str | None,
        metrics: Metrics,
        stopping: Callable[[], bool],
    ):
        self.app, self.posts, self.open_paths = app, posts, open_paths
        self.max_body, self.seconds, self.api_key = max_body, seconds, api_key
        self.metrics, self.stopping = metrics, stopping
        self.held = 0  # bytes of bodies

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id, status, held = time.perf_counter(), uuid.uuid4().hex, None, 0
        scope.setdefault("state", {})["log"] = details = {}

        async def answer(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
                if self.stopping():
                    added.append((b"connection", b"close"))
                message = message | {"headers": [*message.get("headers", []), *added]}
            await send(message)

        async def refuse(error: ApiError) -> None:
            details["code"] = error.code
            if status is None:
                await send_json(answer, error.status, error.body(), error.headers)

        try:
            self._check(scope)
            if scope["method"] == "POST" and scope["path"] in self.posts:
                async with asyncio.timeout(self.seconds):
                    body = await self._read(receive)
                held = len(body)
                receive = _replay(body, receive)
                del body
            await self.app(scope, receive, answer)
        except ClientGone:
            status = status or GONE
        except TimeoutError:
            await refuse(ApiError(408, "body_too_slow", f"The body did not arrive within {self.seconds:g} seconds."))
        except ApiError as error:
            await refuse(error)
        except Exception as error:  # the one place where a defect of ours becomes an answer; the log has the rest
            log(logging.ERROR, "failed", request_id=request_id, error=type(error).__name__, where=_frames(error))
            await refuse(ApiError(500, "internal", f"The service failed; its log has the id {request_id}."))
        finally:
            self.held -= held
            seconds = time.perf_counter() - started
            self.metrics.answered(scope["path"], status or GONE, seconds)
            log(
                logging.INFO,
                "request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status or GONE,
                milliseconds=round(1000 * seconds, 2),
                **details,
            )

    def _check(self, scope: dict) -> None:
        """Refuses by the head of a request alone."""
        if self.stopping():
            raise ApiError(503, "stopping", "The service is shutting down.")
        headers = dict(scope["headers"])
        if self.api_key is not None and scope["path"] not in self.open_paths:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.api_key.encode()):
                message = "Expected the header Authorization: Bearer, followed by the service's key."
                raise ApiError(401, "unauthorized", message, headers={"www-authenticate": "Bearer"})
        if scope["method"] != "POST" or scope["path"] not in self.posts:
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(415, "unsupported_content_type", "Expected the content type application/json.")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body:
            raise self._too_large()

    async def _read(self, receive: Callable) -> bytes:
        """The body, given up as soon as it is too large."""
        parts, size = [], 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                self.held += len(parts[-1])
                if size > self.max_body:
                    raise self._too_large()
                if self.held > max(HELD_BYTES, self.max_body):
                    raise ApiError(503, "queue_full", "Too many large requests are open.")
                if not message.get("more_body"):
                    return b"".join(parts)
        except BaseException:
            self.held -= size
            raise

    def _too_large(self) -> ApiError:
        return ApiError(413, "body_too_large", f"Expected a body of at most {self.max_body} bytes.")


async def send_json(send: Callable, status: int, body: dict, headers: dict[str, str]) -> None:
    """Sends a whole answer."""
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def _replay(body: bytes, receive: Callable) -> Callable:
    """A `receive` that gives the body once, and then what comes."""
    given = False

    async def replay() -> dict:
        nonlocal given, body
        if given:
            return await receive()
        given, content, body = True, body, b""
        return {"type": "http.request", "body": content, "more_body": False}

    return replay


def _frames(error: Exception) -> list[str]:
    """Where an error came from, without its message, which may quote a text."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def log(level: int, event: str, **fields: object) -> None:
    """One structured line."""
    logger.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, event, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry |= {"error": record.exc_info[0].__name__, "where": _frames(record.exc_info[1])}
        return json.dumps(entry, ensure_ascii=False)


LOGGING = {  # for logging.config.dictConfig and uvicorn
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": level, "propagate": False}
        for name, level in {"bertcls.service": "INFO", "uvicorn": "WARNING"}.items()
    },
}
