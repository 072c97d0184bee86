"""What stands around the service's answers: keys, sizes, logs, and failures as bodies of `ApiError`."""

import asyncio
import hmac
import json
import logging
import re
import time
import traceback
import uuid
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from bertcls.serve.schemas import OPEN_PATHS, ApiError
from bertcls.serve.service import Service

logger = logging.getLogger("bertcls.service")

HELD_BYTES = 64_000_000  # of bodies, over all requests that are open; small ones have as much again
SMALL_BODY = 100_000  # bytes: larger ones are parsed one at a time
GONE = 499  # the client left: in logs and counts only


class RequestMiddleware:
    """ASGI middleware: refuses what need not be read (another host, no key, another content type, too large), reads
    the bodies of `posts` into `state.body`, turns every failure into a body of `ApiError`, logs one line a request,
    and gives each an id (`X-Request-ID`)."""

    def __init__(
        self, app: Callable, *, service: Service, posts: set[str], api_key: str | None, hosts: Collection[str] | None
    ):
        self.app, self.service, self.posts, self.api_key, self.hosts = app, service, posts, api_key, hosts
        self.held: dict[str, int] = {}  # bytes of the bodies of open requests, by id

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request, started, request_id, status = Request(scope, receive), time.perf_counter(), uuid.uuid4().hex, None
        details = request.state.log = {"request_id": request_id, "method": scope["method"], "path": scope["path"]}

        async def answer(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, headers = message["status"], MutableHeaders(scope=message)
                headers.update({"x-request-id": request_id, "x-content-type-options": "nosniff"})
                if self.service.stopping:
                    headers["connection"] = "close"
            await send(message)

        async def refuse(error: ApiError) -> None:
            details["code"] = error.code
            if status is None:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, answer)

        try:
            posted = scope["method"] == "POST" and scope["path"] in self.posts
            self._check(scope["path"], request.headers, posted)
            if posted:
                async with asyncio.timeout(seconds := self.service.limits.seconds):
                    request.state.body = await self._read(request, request_id)
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            pass
        except TimeoutError:
            await refuse(ApiError(408, "body_too_slow", f"The body did not arrive within {seconds:g} seconds."))
        except ApiError as error:
            await refuse(error)
        except Exception as error:  # the one place where a defect of ours becomes an answer; the log has the rest
            log(logging.ERROR, "failed", request_id=request_id, error=type(error).__name__, where=_frames(error))
            await refuse(ApiError(500, "internal", f"The service failed; its log has the id {request_id}."))
        finally:
            self.held.pop(request_id, None)
            status, seconds = status or GONE, time.perf_counter() - started
            self.service.counts.answered(scope["path"], status, seconds)
            log(logging.INFO, "request", **details, status=status, milliseconds=round(1000 * seconds, 2))

    def _check(self, path: str, headers: Headers, posted: bool) -> None:
        """Refuses by the head of a request alone."""
        if self.service.stopping:
            raise ApiError(503, "stopping", "The service is shutting down.")
        host = re.sub(r":\d*$", "", headers.get("host", "").lower())
        if self.hosts is not None and host not in self.hosts:  # a page elsewhere whose name leads here, for one
            raise ApiError(421, "unknown_host", "Expected a Host that the service was told of (--allowed_hosts).")
        if self.api_key is not None and path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.api_key.encode()):
                message = "Expected the header Authorization: Bearer, followed by the service's key."
                raise ApiError(401, "unauthorized", message, headers={"www-authenticate": "Bearer"})
        if posted and headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "unsupported_content_type", "Expected the content type application/json.")
        if posted:
            self._check_size(int(headers.get("content-length", 0)))

    async def _read(self, request: Request, request_id: str) -> bytes:
        """The body, given up as soon as it is too large."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            self.held[request_id] = len(body)
            self._check_size(len(body))
            room = max(HELD_BYTES, self.service.limits.body) * (1 if len(body) > SMALL_BODY else 2)
            if sum(self.held.values()) > room:
                raise ApiError(503, "queue_full", "Too many large requests are open.")
        return bytes(body)

    def _check_size(self, size: int) -> None:
        if size > (most := self.service.limits.body):
            raise ApiError(413, "body_too_large", f"Expected a body of at most {most} bytes.")


def _frames(error: BaseException) -> list[str]:
    """Where an error came from, without its message, which may quote a text."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]


def log(level: int, event: str, **fields: object) -> None:
    """One structured line."""
    logger.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, event, and what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry |= {"error": record.exc_info[0].__name__, "where": _frames(record.exc_info[1])}
        return json.dumps(entry)  # in ASCII: no character of a request ends a line or turns its direction


LOGGING = {  # for logging.config.dictConfig and uvicorn
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        name: {"handlers": ["stderr"], "level": level, "propagate": False}
        for name, level in {"bertcls.service": "INFO", "uvicorn": "WARNING", "asyncio": "WARNING"}.items()
    },
}
