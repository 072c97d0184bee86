"""Cleaning steps: pure functions from a text to a text, named in a recipe and stored in the model's config."""

import html
import re

# An opening or closing tag, a comment or a doctype: "<" must be followed at once by a name, so "a < b > c" stays.
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>|<![a-zA-Z][^<>]*>", re.DOTALL)


def strip_tags(text: str) -> str:
    """Replaces HTML tags and comments by a blank, so that the words on both sides stay apart.

    >>> strip_tags("A fine end.<br />Start again; 3 < 4 and 5 > 2")
    'A fine end. Start again; 3 < 4 and 5 > 2'
    """
    previous = None
    while text != previous:  # removing a tag can join two halves of another one
        previous, text = text, _TAG.sub(" ", text)
    return text


def unescape_entities(text: str) -> str:
    """Turns HTML entities into characters, also those escaped more than once.

    >>> unescape_entities("Tom &amp;amp; Jerry&#39;s")
    "Tom & Jerry's"
    """
    previous = None
    while text != previous:
        previous, text = text, html.unescape(text)
    return text


def collapse_blanks(text: str) -> str:
    """Makes one space of every run of white space and strips both ends.

    >>> collapse_blanks("  so\\tfar \\n so  good ")
    'so far so good'
    """
    return " ".join(text.split())


STEPS = {step.__name__: step for step in (strip_tags, unescape_entities, collapse_blanks)}


def clean(text: str, steps: list[str] | None) -> str:
    """Applies cleaning steps by name, in order.

    Raises:
        ValueError: a name that is no cleaning step.

    >>> clean("fish &amp; chips<br/>twice", ["strip_tags", "unescape_entities", "collapse_blanks"])
    'fish & chips twice'
    """
    for name in steps or ():
        if name not in STEPS:
            raise ValueError(f"Found the cleaning step {name!r}; expected one of {', '.join(STEPS)}.")
        text = STEPS[name](text)
    return text


def clean_batch(batch: dict[str, list], *, steps: list[str] | None) -> dict[str, list[str]]:
    """`clean` over the column `text` of a batch, for `datasets.map(..., batched=True)`.

    >>> clean_batch({"text": [" a  b "]}, steps=["collapse_blanks"])
    {'text': ['a b']}
    """
    return {"text": [clean(text, steps) for text in batch["text"]]}
