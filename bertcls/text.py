"""Cleaning steps: pure functions from a text to a text, named in a recipe and stored in the model's config."""

import html
import re

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG_START = re.compile(r"[/!]?[a-zA-Z]")  # right after "<", so "a < b > c" is no tag
_AMPERSANDS = re.compile(r"&(?:(?:amp|AMP|#0*38|#[xX]0*26);?)+")  # an ampersand escaped any number of times


def strip_tags(text: str) -> str:
    """Replaces HTML tags and comments by a blank, so that the words on both sides stay apart.

    Takes time in proportion to the text, whatever its nesting.

    >>> strip_tags("A fine end.<br />Start again; 3 < 4 and 5 > 2")
    'A fine end. Start again; 3 < 4 and 5 > 2'
    """
    end = text.rfind("-->") + 3  # behind it no comment can end
    if end > 2:
        text = _COMMENT.sub(" ", text[:end]) + text[end:]
    kept, open_at = [], []  # pieces of text, and where among them a "<" waits for its ">"
    for piece in re.split("([<>])", text):
        if piece == "<":
            open_at.append(len(kept))
        elif piece == ">" and open_at:
            start = open_at.pop()
            if _TAG_START.match("".join(kept[start + 1 : start + 2])):
                del kept[start:]
                piece = " "
            else:
                open_at.clear()  # a bare ">" ends what was open before it
        kept.append(piece)
    return "".join(kept)


def unescape_entities(text: str) -> str:
    """Turns HTML entities into characters, also those escaped more than once.

    >>> unescape_entities("Tom &amp;amp; Jerry&#39;s")
    "Tom & Jerry's"
    """
    previous = None
    while text != previous:
        previous, text = text, html.unescape(_AMPERSANDS.sub("&", text))
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
