"""What requests may hold and what answers look like: read with the limits in hand, and described for OpenAPI."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import cleandoc

from bertcls import __version__
from bertcls.inference import Prediction, Text
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.text import is_whole

ERRORS = {  # status, code: what it means
    (400, "malformed_json"): "the body is not JSON",
    (400, "malformed_http"): "what came is no HTTP request",
    (400, "no_texts"): "an empty list of texts",
    (401, "unauthorized"): "the API key is missing or wrong",
    (404, "not_found"): "no such path",
    (405, "method_not_allowed"): "the path knows other methods",
    (408, "head_too_slow"): "the head of a request did not arrive in time",
    (408, "body_too_slow"): "the body did not arrive in time",
    (413, "body_too_large"): "the body has too many bytes",
    (413, "body_too_complex"): "the body holds more values than its texts need",
    (413, "too_many_texts"): "too many texts in one request",
    (413, "text_too_long"): "a text, named by `field`, has too many characters",
    (413, "too_many_tokens"): "the windows of all texts have too many tokens together",
    (413, "answer_too_large"): "the answers, for each window or word, too, would have too many bytes",
    (431, "head_too_large"): "the head of a request has too many bytes",
    (415, "unsupported_content_type"): "the body is not declared as application/json",
    (422, "invalid_field"): "a field, named by `field`, is missing, unknown or of the wrong type",
    (500, "internal"): "a defect of the service; its log has the request's id",
    (421, "unknown_host"): "the service is not known by that name (`--allowed_hosts`)",
    (503, "crowded"): "too many connections are open; one that waits for its request is closed",
    (503, "hung"): "one forward pass has taken longer than an answer may",
    (503, "queue_full"): "too much is waiting; `Retry-After` says when to ask again",
    (503, "stopping"): "the service is shutting down",
    (504, "too_slow"): "no answer in time",
}
OPEN_PATHS = {"/", "/health", "/docs", "/openapi.json"}  # without a key; they say nothing of texts
_OPTIONS = ("windows", "words", "abstain_below")  # of /predict; the last one for a single label a text
OPTION_OF = {name: f"--max_{name}" for name in ("texts", "characters", "tokens", "word_tokens", "queue")} | {
    **{"body": "--max_body_bytes", "answer": "--max_answer_bytes", "batch_tokens": "--batch_tokens"},
    **{"seconds": "--timeout", "wait": "--max_wait_ms"},
}  # of serve.py, by the limit that it sets
_JSON_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STRING, _NUMBER, _INTEGER, _BOOLEAN = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_OR_NULL = {"type": ["number", "null"]}


@dataclass(frozen=True)
class Limits:
    """What the service refuses, and how long it waits.

    Raises:
        ValueError: a limit of zero or less, or of more seconds than a day has.
    """

    texts: int = 256  # of a request
    characters: int = 100_000  # of a text; of a pair, both together
    tokens: int = 65_536  # of a request, in all windows of its texts
    word_tokens: int = 2_048  # of a request that asks for words, whose texts are not read in parts
    body: int = 2_000_000  # bytes of a request
    answer: int = 16_000_000  # bytes of the answers for the windows and words of a request
    queue: int = 2048  # texts that were accepted and not answered yet, over all requests
    seconds: float = 30.0  # in which the body of a request arrives, and in which it is answered
    wait: float = 0.002  # seconds that a text waits for others to share a forward pass with
    batch_tokens: int | None = None  # padded ones of a forward pass; `None` chooses by the device

    def __post_init__(self):
        for name, value in asdict(self).items():
            least, most = 0 if name == "wait" else 1e-9, 86400 if name in ("seconds", "wait") else math.inf
            if value is not None and not least <= value <= most:
                wanted = f"{'0 or more' if name == 'wait' else 'more than 0'}, and up to {most}"
                raise ValueError(f"Found {OPTION_OF[name]} {value} ({name}); expected {wanted}. Correct it.")


class ApiError(Exception):
    """An answer other than the one hoped for: its HTTP status, a code of `ERRORS`, and the field that is to blame."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None = None, headers: dict | None = None):
        message, field = (text and text.encode(errors="replace").decode() for text in (message, field))
        super().__init__(message)
        self.status, self.code = status, code
        self.headers = ({"retry-after": "1"} if status == 503 else {}) | (headers or {})
        self.body = {"error": {"code": code, "message": message} | ({} if field is None else {"field": field})}


def read_body(
    content: bytes, field: str, *, kind: str, pairs: bool, words: bool, limits: Limits
) -> tuple[list[Text], dict]:
    """The texts under `field`, and the options beside them. The first thing that is wrong ends it: an `ApiError`."""
    most = min(limits.texts, limits.queue)
    try:
        text = content.decode()
        outside = _JSON_STRING.sub("", text)
        if sum(map(outside.count, ",[{")) > 3 * most + 99:  # each value takes memory and time to read
            raise ApiError(413, "body_too_complex", f"Found more values in the body than {most} texts need.")
        body = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        message = f"The body is not valid JSON ({type(error).__name__}: {str(error)[:80]})."
        raise ApiError(400, "malformed_json", message) from error
    if not isinstance(body, dict):
        raise _invalid("body", "is not an object")
    known = {field, *_OPTIONS[: 2 + (kind == SINGLE_LABEL)]} if field == "texts" else {field}
    if unknown := [name for name in body if name not in known]:
        raise _invalid(unknown[0][:80], "is unknown")
    texts = body.pop(field, None)
    if field == "sentences" and isinstance(texts, str) and not pairs:
        texts = [texts]  # one alone
    if not isinstance(texts, list):
        raise _invalid(field, f"is not a list of {'pairs' if pairs else 'strings'}")
    if not texts:
        raise ApiError(400, "no_texts", f"Found no text in {field}; expected at least one.", field=field)
    if len(texts) > most:
        message = f"Found {len(texts)} texts; expected at most {most} in a request."
        raise ApiError(413, "too_many_texts", message, field=field)
    for name in ("windows", "words"):
        if not isinstance(body.get(name, False), bool):
            raise _invalid(name, "is not true or false")
    if body.get("words") and not words:
        raise _invalid("words", "is true, and this model tells no words (ONNX Runtime has no gradients)")
    below = body.get("abstain_below")
    if below is not None and not (type(below) in (int, float) and 0 <= below <= 1):
        raise _invalid("abstain_below", "is not a number from 0 to 1, or null")
    return [_read_text(text, f"{field}[{row}]", pairs, limits) for row, text in enumerate(texts)], body


def _read_text(text: object, field: str, pairs: bool, limits: Limits) -> Text:
    if pairs and not (isinstance(text, list) and len(text) == 2):
        raise _invalid(field, "is not a list of two strings")
    parts = {f"{field}[{number}]": part for number, part in enumerate(text)} if pairs else {field: text}
    for where, part in parts.items():
        if not isinstance(part, str):
            raise _invalid(where, "is not a string")
        if not is_whole(part):
            raise _invalid(where, "holds half of a character (a lone surrogate)")
    if (length := sum(map(len, parts.values()))) > limits.characters:
        message = f"Found {length} characters in a text; expected at most {limits.characters}."
        raise ApiError(413, "text_too_long", message, field=field)
    return tuple(text) if pairs else text


def _without_twins(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _invalid("body", "holds an object with a name given twice")
    return found


def _invalid(field: str, what: str) -> ApiError:
    return ApiError(422, "invalid_field", f"The field {field} {what}.", field=field)


def as_json(answer: Prediction, abstain_below: float | None = None) -> dict:
    """A `Prediction` as the service gives it."""
    names = ("start", "end", "text", "label", "score", "probabilities")  # the first three of a window
    fields = {name: getattr(answer, name) for name in names if hasattr(answer, name)}
    if abstain_below is not None and answer.score < abstain_below:
        fields["label"] = None
    if answer.windows is not None:
        fields["windows"] = [*map(as_json, answer.windows)]
    if answer.words is not None:
        fields["words"] = [*map(vars, answer.words)]
    return fields


def describe_interface(
    endpoints: dict[str, Callable], *, name: str, kind: str, pairs: bool, words: bool, limits: Limits, key: bool
) -> dict:
    """The OpenAPI document: what `read_body` takes and refuses, and what is answered.

    `endpoints` has a function a path, whose docstring describes it; `name` is the model's, `kind` its problem type.
    """
    one = _STRING | {"maxLength": limits.characters}
    one = _list_of(one, minItems=2, maxItems=2) if pairs else one
    many = _list_of(one, minItems=1, maxItems=min(limits.texts, limits.queue))
    switch = _BOOLEAN | {"default": False}
    asked = {"windows": switch | {"description": "also answer for each window of a text"}}
    if words:
        asked["words"] = switch | {"description": "also say what each word adds to the answer"}
    if kind == SINGLE_LABEL:
        described = "give no label, null, where the most probable one has a lower probability"
        asked["abstain_below"] = _OR_NULL | {"minimum": 0, "maximum": 1, "description": described}
    label = {MULTI_LABEL: _list_of(_STRING), REGRESSION: _NUMBER}.get(kind, {"type": ["string", "null"]})
    number = {MULTI_LABEL: _list_of(_INTEGER), REGRESSION: _NUMBER}.get(kind, _INTEGER)
    score = _OR_NULL | {"description": "probability of the label; none for a regression"}
    answer = {"label": label, "score": score, "probabilities": {"type": "object", "additionalProperties": _NUMBER}}
    start = _INTEGER | {"description": "in the cleaned text (of a pair the second one), in characters"}
    window = _object({"start": start, "end": _INTEGER, "text": _STRING} | answer)
    adds = answer["probabilities"] | {"description": "by label: what it adds to its log-odds, or to the value"}
    start = _INTEGER | {"description": "in the text as it came, or where `cleaned` in the cleaned one, in characters"}
    flags = dict.fromkeys(("cleaned", "second"), _BOOLEAN)
    word = _object({"text": _STRING, "start": start, "end": _INTEGER, "contributions": adds} | flags)
    prediction = _object(answer, windows=_list_of(window), words=_list_of(word))
    facts = dict.fromkeys(("model", "problem_type", "device"), _STRING) | dict.fromkeys(("pairs", "words"), _BOOLEAN)
    facts |= {"labels": _list_of(_STRING)} | dict.fromkeys(("contract", "limits", "versions"), {"type": "object"})
    bodies = {
        "/query": _object({"sentences": many if pairs else {"anyOf": [many, one]}}),
        "/predict": _object({"texts": many}, **asked),
    }
    answers = {
        "/query": _object({"results": _list_of(number)}),
        "/predict": _object({"predictions": _list_of(prediction)}),
        "/health": _object({"status": {"const": "ok"}, "busy_seconds": _NUMBER}),
        "/info": _object(facts),
    }
    error = _object({"error": _object({"code": _STRING, "message": _STRING}, field=_STRING)})
    paths: dict = {}
    for path, endpoint in endpoints.items():
        summary, _, about = cleandoc(endpoint.__doc__).replace("\n", " ").partition(": ")
        content = _json(answers[path]) if path in answers else {"text/plain": {"schema": _STRING}}
        found: dict = {"summary": summary, "description": about[0].upper() + about[1:]}
        found["responses"] = {"200": {"description": "the answer", "content": content}}
        statuses = {421, 500, 503}
        if path in bodies:
            statuses |= {400, 408, 413, 415, 422, 504}
            found["requestBody"] = {"required": True, "content": _json(bodies[path])}
        if key and path not in OPEN_PATHS:
            statuses |= {401}
            found["security"] = [{"key": []}]
        for status in sorted(statuses):
            meanings = [f"`{code}`: {meaning}" for (number, code), meaning in ERRORS.items() if number == status]
            content = _json({"$ref": "#/components/schemas/Error"})
            found["responses"][str(status)] = {"description": "; ".join(meanings), "content": content}
        paths[path] = {"post" if path in bodies else "get": found}
    schemes = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if key else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "bertcls", "description": f"Labels texts with {name}.", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": error}, **schemes},
    }


def _json(schema: dict) -> dict:
    return {"application/json": {"schema": schema}}


def _object(required: dict, **optional: dict) -> dict:
    properties = required | optional
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _list_of(items: dict, **limits: int) -> dict:
    return {"type": "array", "items": items, **limits}
