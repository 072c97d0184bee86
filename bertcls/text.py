"""Cleaning steps: pure functions from a text to a text, named in a recipe and stored in the model's config."""

import html
import re
import runpy
import string
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby, islice

import regex

CHARACTERS_AT_A_TIME = 4_000_000  # tokenized together: their tokens take some 0.16 KiB a character
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG_START = re.compile(r"[/!]?[a-zA-Z]")  # right after "<", so "a < b > c" is no tag
_AMPERSANDS = re.compile(r"&(?:(?:amp|AMP|#0*38|#[xX]0*26);?)+")  # an ampersand escaped any number of times
_NO_CHARACTER = re.compile(r"(&#[0-9]{100,})")  # int() refuses more digits than sys.get_int_max_str_digits()

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Chinese characters
CJK_CHARACTER = re.compile(f"[{_CJK}]")  # counts as a word, since no blanks part words there
# What East Asian texts are written with: an address or a name ends where it begins.
_EAST_ASIAN = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
_URL = re.compile(  # the mark that ends a sentence or closes a bracket is no part of the address
    rf"""(?:https?://|(?<![a-z0-9])www\.)[^\s<>"{_EAST_ASIAN}]*[^\s<>"{_EAST_ASIAN}.,;:!?'’”»)\]}}]""", re.IGNORECASE
)
_USER_NAME = re.compile(rf"(?<![^\W{_EAST_ASIAN}])@(?:[A-Za-z0-9_]+|\w+)")  # bob@example.org has a letter before it

_HEADER_NAMES = (  # besides those with a hyphen: Reply-To, NNTP-Posting-Host, X-Newsreader
    "From|To|Cc|Bcc|Subject|Date|Sent|Sender|Organi[sz]ation|Lines|Keywords|Summary|Distribution|Newsgroups|Path|"
    r"References|Expires|Supersedes|Originator|Disclaimer|Moderator|Approved|Xref|Received|Status|Comments|\w+-[^\s:]+"
)
_HEADER_BLOCK = re.compile(  # possessive: no part is tried twice
    rf"(?:[ \t\r]*+\n)*+(?:(?:{_HEADER_NAMES}):.*+\n(?:[ \t]++\S.*+\n)*+)++[ \t\r]*+\n", re.IGNORECASE
)
_SURE_HEADER = re.compile(  # "Summary:" and "Date:" alone also open ordinary texts
    "^(?:From|Subject|Organi[sz]ation|Newsgroups|Reply-To|Message-ID|NNTP-Posting-Host):", re.IGNORECASE | re.MULTILINE
)
_ATTRIBUTION = re.compile(
    r"^\s*(?:In|From) article\s*<|^\s*On .{1,40}\d:\d\d\b|\b(?:writes|wrote) in (?:article |message |news:)?<|"
    r"(?:^|\s)(?:(?:writes|wrote|says|said)\s*(?::|\.\.\.)|writes|wrote)\s*$",
    re.IGNORECASE,
)

_MANY_MARKS = re.compile(r"(?:[^\w\x00-\x7f]|[\uff9e\uff9f]){31,}")  # UAX 15: no script stacks more than 30 accents
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_PUNCTUATION = regex.compile(rf"[{re.escape(string.punctuation)}\p{{P}}]")  # in Unicode's sense, and ASCII's symbols
_MARK = regex.compile(r"(?!(?<=[\p{L}\p{N}\p{M}])['’\-‐‑][\p{L}\p{N}\p{M}])\p{P}")  # not ' and - in words; M: accents
NO_BLANKS = rf"{_CJK}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Chinese, Japanese, Thai, Lao, Burmese and Khmer
_LETTER = rf"[\w\p{{No}}--[{NO_BLANKS}]]"  # \w of the package regex holds accents, and not ², ½ or ①
_JOINED = r"\p{M}\u200c\u200d"  # accents and joiners, which lead no word
_WORD = rf"(?V1)[{NO_BLANKS}]\p{{M}}*|(?![{_JOINED}]){_LETTER}+(?:['’]{_LETTER}+)*"  # or a character without blanks
_WORDS, _UNITS = regex.compile(_WORD), regex.compile(_WORD + rf"|[^\w\p{{No}}\s\x1c-\x1f][{_JOINED}]*")

_CHINESE_MARKS = "，．！？：；（）～"  # full-width forms of ASCII that Chinese is written with
_TO_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in _CHINESE_MARKS} | {0x3000: " "}
_SURROGATE = re.compile("[\ud800-\udfff]")
_HALF_WIDTH = re.compile(r"[\uff61-\uff9f]+")  # katakana and its punctuation, not the Korean letters behind it


def strip_tags(text: str) -> str:
    """Replaces HTML tags and comments by a blank, so that the words on both sides stay apart.

    >>> strip_tags("A fine end.<br />Start again; 3 < 4 and 5 > 2")
    'A fine end. Start again; 3 < 4 and 5 > 2'
    """
    end = text.rfind("-->") + 3  # behind it no comment can end
    if end > 2:
        text = _COMMENT.sub(" ", text[:end]) + text[end:]
    kept, open_at = [], []  # pieces of text, and where among them a "<" waits for its ">": linear in the text
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
    """Turns HTML entities into characters, also those escaped more than once, but for an ampersand up to 4 times.

    >>> unescape_entities("Tom &amp;amp; Jerry&#39;s")
    "Tom & Jerry's"
    """
    for _ in range(4):  # a bound keeps the work linear in the text
        parts = _NO_CHARACTER.split(_AMPERSANDS.sub("&", text))  # every second one is such a number
        parts[::2] = map(html.unescape, parts[::2])
        text = "".join(parts)
    return text


def collapse_blanks(text: str) -> str:
    """Makes one space of every run of white space and strips both ends."""
    return " ".join(text.split())


def mask_urls(text: str) -> str:
    """Web addresses become `http`, as cardiffnlp/twitter-roberta-base was pretrained with; few addresses recur.

    >>> mask_urls("Read this (https://t.co/a1b2), or www.example.org/?q=1.")
    'Read this (http), or http.'
    """
    return _URL.sub("http", text)


def mask_user_names(text: str) -> str:
    """`@name` becomes `@user`, as `mask_urls`, so that no label is learnt from a person; e-mail addresses stay.

    >>> mask_user_names("@bob: .@Eve_1 asks, mail bob@example.org")
    '@user: .@user asks, mail bob@example.org'
    """
    return _USER_NAME.sub("@user", text)


def drop_email_headers(text: str) -> str:
    """Drops header blocks at the start of a newsgroup post or e-mail; before `collapse_blanks`, which joins lines.

    >>> drop_email_headers("From: a@b.org (Ann)\\nSubject: Re: long\\n  line\\nLines: 1\\n\\nFrom: me to you.\\n")
    'From: me to you.\\n'
    """
    start = 0
    while (block := _HEADER_BLOCK.match(text, start)) and _SURE_HEADER.search(block[0]):
        start = block.end()
    return text[start:]


def drop_quoted_lines(text: str) -> str:
    """Drops lines that start with > or |, which others wrote, and the line before them that names their author.

    After `unescape_entities`, which makes &gt; a >, and before `collapse_blanks`, which joins lines.

    >>> drop_quoted_lines("In article <1@b.org> Ann writes:\\n> Is it so?\\n >> Yes.\\nAs I wrote:\\nnever.")
    'As I wrote:\\nnever.'
    """
    kept, quote_below = [], False
    for line in reversed(text.split("\n")):
        if line.lstrip().startswith((">", "|")):
            quote_below = True
        elif not (line.strip() and quote_below and _ATTRIBUTION.search(line)):  # one of two lines goes whole
            kept.append(line)
            quote_below = quote_below and not line.strip()
    return "\n".join(reversed(kept))


def nfkc(text: str) -> str:
    """Unicode's form NFKC: one spelling for what looks alike, such as ligatures, full-width letters and accents.

    >>> nfkc("ﬁne cafe\u0301 Ｗｉｆｉ ²")
    'fine café Wifi 2'
    """
    return unicodedata.normalize("NFKC", _MANY_MARKS.sub(_sort_marks, text))


def _sort_marks(run: re.Match) -> str:
    """A long run of accents in order; `unicodedata` alone would be quadratic in it."""
    characters = "".join(unicodedata.normalize("NFKD", character) for character in run[0])
    groups = groupby(characters, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(group, key=unicodedata.combining)) for _, group in groups)


def lower_case(text: str) -> str:
    """Lower case: only where the tokenizer does not do it itself, and never for a cased encoder, which reads it."""
    return text.lower()


def remove_punctuation(text: str) -> str:
    """Makes a blank of every punctuation mark, but for apostrophes and hyphens within words; symbols such as $ stay.

    Encoders have read punctuation, so measure before using it.

    >>> remove_punctuation("A 'street-smart', don’t-miss film - 9/10!")
    'A  street-smart   don’t-miss film   9 10 '
    """
    return _MARK.sub(" ", text)


def normalise_width(text: str) -> str:
    """Full-width letters, digits and symbols become ASCII and half-width katakana full-width, as encoders know them.

    Full-width ，！？：；（）～ stay: Chinese encoders were pretrained with them.

    >>> normalise_width("Ｗｉｆｉ１０％，ｶﾞｲﾄﾞ｡")
    'Wifi10%，ガイド。'
    """
    return _HALF_WIDTH.sub(_full_width, text.translate(_TO_ASCII))


def _full_width(run: re.Match) -> str:
    composed = unicodedata.normalize("NFKC", run[0])
    return composed.replace("\u3099", "゛").replace("\u309a", "゜")  # a lone sound mark must not sit on what is before


# The public functions above. A recipe adds its own by name.
STEPS = {name: step for name, step in vars().items() if getattr(step, "__module__", "") == __name__ and name[0] != "_"}


def check_steps(steps: list[str] | None) -> None:
    """Refuses a name that is no cleaning step."""
    if unknown := [name for name in steps or () if not isinstance(name, str) or name not in STEPS]:
        raise ValueError(
            f"Found the cleaning step {unknown[0]!r}; expected one of {', '.join(STEPS)}. Correct it, or give its "
            "function: --steps FILE.py, or steps={...} where a model is loaded."
        )


def own_steps(steps: list[str] | None) -> list[str]:
    """Those of the steps that are not of this module: their functions may change, and are not everywhere."""
    return [name for name in steps or () if STEPS[name].__module__ != __name__]


def load_steps(path: str | None) -> None:
    """Adds the public functions that a Python file defines to `STEPS`; whoever starts a program names the file.

    Raises:
        ValueError: no such file, one that does not run, or none of its functions is public.
    """
    if path is None:
        return
    try:
        found = runpy.run_path(path, run_name="steps")
    except (Exception, SystemExit) as error:  # whatever the file raises
        raise ValueError(
            f"Found --steps {path}, which does not run ({type(error).__name__}: {error}); expected a Python file with "
            "functions from a text to a text. Correct it."
        ) from error
    own = {name: step for name, step in found.items() if getattr(step, "__module__", "") == "steps" and name[0] != "_"}
    if not own:
        raise ValueError(f"Found no public function in --steps {path}; expected the cleaning steps. Check the path.")
    STEPS.update(own)


def clean(text: str, steps: list[str] | None) -> str:
    """Applies cleaning steps by name, in order.

    Raises:
        ValueError: a name that is no cleaning step, or a step that fails on the text.

    >>> clean("fish &amp; chips<br/>twice", ["strip_tags", "unescape_entities", "collapse_blanks"])
    'fish & chips twice'
    """
    check_steps(steps)
    for name in steps or ():
        try:
            text = STEPS[name](text)
        except Exception as error:  # whatever a step raises
            raise ValueError(
                f"The cleaning step {name} failed ({type(error).__name__}: {error}); expected a text. Correct the "
                "step, or leave it out of --cleaning."
            ) from error
    return text


def clean_all(texts: Iterable[str], steps: list[str] | None, names: Iterable = ()) -> list[str]:
    """`clean` for the texts of a batch; an error names the text, by its place from 0 where it has no name."""
    check_steps(steps)
    cleaned: list[str] = []
    for place, text in enumerate(texts):
        try:
            cleaned.append(clean(text, steps))
        except ValueError as error:
            raise ValueError(f"Text {next(islice(names, place, None), place)}: {error}") from error
    return cleaned


def comparison_key(text: str) -> str:
    """The form in which texts are compared: without tags and punctuation, in lower case, with single blanks."""
    return " ".join(_PUNCTUATION.sub("", _TAG.sub("", text)).lower().split())


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words and punctuation marks of a text begin and end; a script without blanks has its characters.

    >>> [text[a:b] for text in ["Don't! 很好"] for a, b in word_spans(text)]
    ["Don't", '!', '很', '好']
    """
    return [found.span() for found in _UNITS.finditer(text)]


def words_of(text: str) -> list[str]:
    """Words in lower case; a Chinese character counts as one.

    >>> words_of("Don't miss it: 很好!")
    ["don't", 'miss', 'it', '很', '好']
    """
    return _WORDS.findall(text.lower())


def is_whole(text: str) -> bool:
    """Whether all characters of a text are whole: JSON, and a wrong encoding, can leave half of one."""
    return _SURROGATE.search(text) is None


def count_characters(text: str | tuple[str, str]) -> int:
    """Of a text, or of both of a pair."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


def portions(items: list, sizes: Iterable[int], most: int) -> Iterator[list]:
    """Items in lists of some `most` in size: up to that beside the first one.

    >>> list(portions(["a", "b", "c", "d"], [2, 1, 9, 1], most=4))
    [['a', 'b'], ['c', 'd']]
    """
    for _, group in groupby(zip(accumulate(sizes), items), key=lambda pair: pair[0] // most):
        yield [item for _, item in group]
