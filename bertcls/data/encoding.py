"""Text of a file, unpacked and decoded, whatever its encoding."""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from charset_normalizer import from_bytes

from bertcls.process import warn

_BYTES_AT_A_TIME = 1 << 20
_SAMPLE = 1_000_000  # bytes by which an encoding is told
LONGEST = 20_000_000  # characters of a line or a cell: its tokens take 3.2 GiB
_ENCODINGS = ["gb18030", "big5", "shift_jis", "euc_kr", "cp1251", "cp1252"]  # told apart by the letters they give
_MARKS = (  # of byte order
    *((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32")),
    *((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")),
)
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)


def checked_text(path: Path, encoding: str | None = None, *, longest: int | None = LONGEST) -> Callable[[], TextIO]:
    """A function that opens a file as text, line ends kept; it is read through here, and what is no text refused.

    So is a line of more than `longest` characters; `None` allows any.
    """
    head = next(blocks_of(path))
    name = encoding or next((name for mark, name in _MARKS if head.startswith(mark)), None)
    fault = _fault(path, name or "utf-8", longest)
    if fault and name is None and (name := _guess(path)):
        warn(f"{path} is not UTF-8; it is read as {name}, which its bytes look like (--encoding overrules).")
        fault = _fault(path, name, longest)
    if fault:
        raise ValueError(fault)
    for mark, marked in _MARKS:  # the mark is no part of the first column's name
        if name and head.startswith(mark) and codecs.lookup(name).name.startswith(marked.removesuffix("-sig")):
            name = marked
    return lambda: io.TextIOWrapper(_open(path), name or "utf-8", newline="")


def _fault(path: Path, encoding: str, longest: int | None) -> str | None:
    """Why a file is no text in an encoding."""
    try:
        b" ".decode(encoding, "replace")  # not all codecs of Python give text
        decoder = codecs.getincrementaldecoder(encoding)()
    except (LookupError, UnicodeError):
        return f"Found --encoding {encoding}; expected one that Python knows, such as utf-8 or gb18030. Correct it."
    line, run = 1, 0
    try:
        for block in blocks_of(path):
            text = decoder.decode(block, final=not block)
            if "\0" in text:
                return (
                    f"{path} holds a null byte in line {line + text[: text.index(chr(0))].count(chr(10))}; expected "
                    "text. It may be UTF-16 without a byte order mark (--encoding utf-16-le), or a spreadsheet, which "
                    "you can save as CSV (UTF-8)."
                )
            first, *others = text.replace("\r", "\n").split("\n")
            if longest is not None and (run := run + len(first)) > longest:
                return f"{path} has more than {longest:,} characters in line {line}; expected a text. Cut it."
            run = len(others[-1]) if others else run
            line += text.count("\n")
    except UnicodeDecodeError as error:
        return (
            f"{path} is not {encoding}: byte {error.object[error.start]:02x} in line "
            f"{line + error.object[: error.start].count(10)} has no meaning there. Name another --encoding."
        )
    except UnicodeError as error:  # UTF-16 without a mark, for one
        return f"{path} is not {encoding}: {error}. Name another --encoding, such as {encoding}-le."


def _guess(path: Path) -> str | None:
    """What the lines that are not UTF-8 look like; `None` where others say that it is UTF-8 with a fault."""
    utf_8, sure, sample = 0, 0, b""
    with _checked(path) as file:
        for line in iter(lambda: file.readline(_SAMPLE), b""):
            try:
                text = line.decode()
                letters = 0 if line.isascii() else sum(character > "\x7f" for character in text)
                utf_8 += letters
                sure += letters if letters > 1 or letters and max(text) > "\u07ff" else 0  # three bytes a letter
            except UnicodeDecodeError:
                sample += line
                if len(sample) > _SAMPLE:
                    break
    if b"\0" in sample:
        return "latin-1"  # in which the null byte is found
    whole = sample[: sample.rfind(b"\n", 0, _SAMPLE) + 1] or sample
    found = from_bytes(whole, cp_isolation=_ENCODINGS, enable_fallback=False).best() if sample else None
    name = "latin-1" if found is None else found.encoding
    by_chance = sure < 4 and name in _ENCODINGS[:4]  # two bytes a letter, as some of UTF-8
    enough = not sample or 20 * utf_8 > sum(byte > 127 for byte in sample)
    return None if enough and not by_chance else name


def blocks_of(path: Path) -> Iterator[bytes]:
    """The content of a file, unpacked, and an empty block that ends it."""
    with _checked(path) as file:
        while block := file.read(_BYTES_AT_A_TIME):
            yield block
    yield b""


@contextmanager
def _checked(path: Path) -> Iterator[BinaryIO]:
    """A file that is unpacked as it is read; in one line what is wrong with its packing."""
    try:
        with _open(path) as file:
            yield file
    except _BROKEN as error:
        if (suffix := path.suffix.lower()) not in UNPACK:
            raise
        raise ValueError(
            f"{path} cannot be unpacked ({error}); expected a whole {suffix} file with one file in it. Get it anew."
        ) from error


def _open(path: Path) -> BinaryIO:
    return UNPACK.get(path.suffix.lower(), open)(path, "rb")


def _open_zip(path: Path, mode: str) -> BinaryIO:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX/" not in name]
    if len(names) != 1:
        raise ValueError(f"it holds {len(names)} files")
    return archive.open(names[0])


UNPACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _open_zip}
