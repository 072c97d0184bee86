"""Bodies of requests and answers."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from bertcls.inference import Prediction
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.serve.middleware import ERRORS
from bertcls.serve.service import Limits
from bertcls.text import is_whole


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str = Field(description="for programs; it does not change")
    message: str = Field(description="for people")
    field: str | None = Field(None, description="of the request that is wrong; left out where none is")


class ErrorBody(BaseModel):
    """Every answer that is not the one hoped for."""

    error: ErrorDetail


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


def make_schemas(kind: str, pairs: bool, limits: Limits) -> list[type[BaseModel]]:
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


def as_json(answer: Prediction, abstain_below: float | None) -> dict:
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


def responses(
    model: type[BaseModel] | None, api_key: str | None, *, body: bool = False, more: tuple[int, ...] = (500, 503)
) -> dict:
    """What a path may answer, for the OpenAPI document."""
    statuses = {*more, *((400, 408, 413, 415, 422, 504) if body else ()), *(() if api_key is None else (401,))}
    found: dict = {} if model is None else {200: {"model": model}}
    for status in sorted(statuses):
        meanings = [f"`{code}`: {meaning}" for (number, code), meaning in ERRORS.items() if number == status]
        found[status] = {"model": ErrorBody, "description": "; ".join(meanings)}
    return found


def field_name(loc: tuple) -> str:
    """Where a validation failed.

    >>> field_name(("body", "texts", 3)), field_name(("body",))
    ('texts[3]', 'body')
    """
    name = ""
    for part in loc[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name or "body"
