"""Bytes of a file, unpacked and decoded, whatever its encoding."""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from charset_normalizer import from_bytes

from bertcls.process import warn

_BYTES_AT_A_TIME = 1 << 20
UNPACK = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ENCODINGS = ["gb18030", "big5", "shift_jis", "euc_kr", "cp1251", "cp1252"]  # told apart by the letters they give
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # of byte order


def empty_file(path: Path) -> ValueError:
    return ValueError(f"{path} is empty; expected at least one row. Check the file.")


def decode(content: bytes, path: Path, encoding: str | None = None) -> str:
    """Bytes to text.

    Raises:
        ValueError: an unknown encoding, bytes that are not text in it, or null bytes, the sign of a binary file.

    >>> decode("naïve".encode("utf-8-sig"), Path("a.csv"))
    'naïve'
    """
    if encoding is None:
        encoding = _encoding(content, path)
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise _unknown_encoding(encoding) from error
    except UnicodeDecodeError as error:
        raise _not_decoded(path, encoding, error, line=1) from error
    if "\0" in text:
        raise _null_byte(path, text, line=1)
    return text


def _unknown_encoding(encoding: str) -> ValueError:
    return ValueError(
        f"Found --encoding {encoding}; expected one that Python knows, such as utf-8, gb18030 or latin-1. Correct it."
    )


def _not_decoded(path: Path, encoding: str, error: UnicodeDecodeError, *, line: int) -> ValueError:
    """`line` is the one that the bytes of `error` start in."""
    line += error.object[: error.start].count(b"\n")
    return ValueError(
        f"{path} is not {encoding}: byte {error.object[error.start : error.start + 1].hex()} in line {line} has "
        "no meaning there; expected text. Name another --encoding."
    )


def _null_byte(path: Path, text: str, *, line: int) -> ValueError:
    line += text[: text.index("\0")].count("\n")
    return ValueError(
        f"{path} holds a null byte in line {line}; expected text. It may be a binary file, or UTF-16 without a "
        "byte order mark (--encoding utf-16-le)."
    )


def checked_encoding(path: Path, encoding: str | None) -> str:
    """What `decode` would read a whole file as, found block by block; refuses what it refuses."""
    head = next(_blocks(path))
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    name = encoding or marked or "utf-8"
    try:
        decoder = codecs.getincrementaldecoder(name)()
    except LookupError as error:
        raise _unknown_encoding(name) from error
    line, blank, before, decoded = 1, True, b"", 0
    blocks = _blocks(path)
    for block in blocks:
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            if encoding or marked or decoded > 9:  # so many characters beyond ASCII are UTF-8 by no chance
                raise _not_decoded(path, name, error, line=line) from error
            sample = before[before.find(b"\n") + 1 :] + block + next(blocks, b"")
            return checked_encoding(path, _encoding(sample, path))
        if "\0" in text:
            raise _null_byte(path, text, line=line)
        decoded += 0 if text.isascii() else sum(character > "\x7f" for character in text)
        line, blank, before = line + text.count("\n"), blank and not text.strip(), block
    if blank:
        raise empty_file(path)
    return name


def _blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, unpacked, and an empty block that ends it."""
    try:
        with _open(path) as file:
            while block := file.read(_BYTES_AT_A_TIME):
                yield block
    except _BROKEN as error:
        raise _not_unpacked(path, error) from error
    yield b""


def _encoding(content: bytes, path: Path) -> str:
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    try:
        content.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        if b"\0" in content:
            return "latin-1"  # binary, which `decode` refuses
        text = content.decode("utf-8", errors="replace")
        if text.count("\ufffd") * 10 < sum(ord(character) > 127 for character in text):
            return "utf-8"  # but for a few bytes, which `decode` reports
        start = content.rfind(b"\n", 0, error.start) + 1
        part = content[start : start + 1_000_000]  # from the first line that is not UTF-8
        part = part[: part.rfind(b"\n") + 1] or part  # whole lines: half a character fits no encoding
    found = from_bytes(part, cp_isolation=_ENCODINGS, enable_fallback=False).best()
    name = "latin-1" if found is None else found.encoding
    warn(f"{path} is not UTF-8; it is read as {name}, which its bytes look like (--encoding overrules).")
    return name


_BROKEN = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, zipfile.BadZipFile, zlib.error)


def _open(path: Path) -> BinaryIO:
    """A file, unpacked as it is read."""
    suffix = path.suffix.lower()
    if suffix != ".zip":
        return UNPACK.get(suffix, open)(path, "rb")
    try:
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX/" not in name]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files")
        return archive.open(names[0])
    except _BROKEN as error:
        raise _not_unpacked(path, error) from error


def open_text(path: Path, encoding: str) -> TextIO:
    return io.TextIOWrapper(_open(path), encoding, newline="")


def unpacked(path: Path) -> bytes:
    return b"".join(_blocks(path))


def _not_unpacked(path: Path, error: Exception) -> Exception:
    if path.suffix.lower() not in (*UNPACK, ".zip"):
        return error  # the disk's
    return ValueError(
        f"{path} cannot be unpacked ({error}); expected a whole {path.suffix.lower()} file with one file in it, "
        "without a password. Unpack it, or get it anew."
    )
