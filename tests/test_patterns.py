"""Every pattern of the package takes time that grows with the text, not with its square."""

import importlib
import pkgutil
import re
import time

import pytest

import bertcls
import bertcls.text
from bertcls.text import STEPS

LENGTH = 10_000  # characters
SECONDS = 1.0  # of processor time, for what takes a millisecond; a quadratic pattern takes some seconds
UNITS = [
    *"1a <>&@.-_中é'\"{([\\=%#|+\n\t\u0301\u200b\ud800",
    "1.",
    "1,",
    "A-",
    "a ",
    "<a",
    "</",
    "<!--",
    "&amp;",
    "&#1",
    "a@",
]
UNITS += [
    "&amp;",
    "&#1",
    "a@",
    "..",
    "e1",
    "http://",
    "www.",
    "http",
    "中a",
    "a'",
    "a: b\n",
    "X-a:",
    "Re: ",
    "> ",
    "In article <",
    "1e",
]
AT_THE_START = {  # never searched for; what uses the first two is tried below
    "bertcls.text._HEADER_BLOCK",
    "bertcls.text._COMMENT",
    "bertcls.data.labels.NUMBER",
    "bertcls.data.load.NUMBER",
}
TAILS = ("", "x", "!", "\n\n", " ", "9")


def patterns() -> dict[str, re.Pattern]:
    found = {}
    for module in pkgutil.walk_packages(bertcls.__path__, "bertcls."):
        try:
            names = vars(importlib.import_module(module.name))
        except ImportError:  # an optional package is not there
            continue
        found |= {f"{module.name}.{name}": value for name, value in names.items() if isinstance(value, re.Pattern)}
    return {name: pattern for name, pattern in found.items() if isinstance(pattern.pattern, str)}


@pytest.mark.parametrize("name", sorted(patterns()))
def test_a_pattern_is_linear(name):
    pattern = patterns()[name]
    uses = [pattern.match, pattern.fullmatch, *([] if name in AT_THE_START else [pattern.search])]
    start = time.process_time()
    for unit in UNITS:
        for tail in TAILS:
            text = unit * (LENGTH // len(unit)) + tail
            for use in uses:
                use(text)
            if name not in AT_THE_START:
                pattern.sub("", text)
            taken = time.process_time() - start
            assert taken < SECONDS, (name, unit, tail)
        start = time.process_time()


@pytest.mark.parametrize("name", [*STEPS, "comparison_key", "words_of"])
def test_a_step_is_linear(name):
    step = getattr(bertcls.text, name)
    for unit in UNITS:
        for tail in (*TAILS, "-->"):
            start = time.process_time()
            step(unit * (LENGTH // len(unit)) + tail)
            assert time.process_time() - start < SECONDS, (unit, tail)


def test_there_are_patterns():
    assert len(patterns()) >= 20
