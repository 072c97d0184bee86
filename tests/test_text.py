import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcls.text import STEPS, clean, clean_batch

MARKUP = st.text(alphabet=st.sampled_from(list("ab &;<>/!-#x39ampltg\n\t\"'=")), max_size=60)


@pytest.mark.parametrize("name", STEPS)
@given(text=MARKUP | st.text(max_size=60))
def test_steps_are_idempotent(name, text):
    once = STEPS[name](text)
    assert STEPS[name](once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("end<br/>Start", "end Start"),  # the words stay apart
        ("one<p class='x'\nid=y>two</p>", "one two "),  # over a line break
        ("a < b and c > d", "a < b and c > d"),  # not a tag
        ("<!-- a\nnote -->text", " text"),
    ],
)
def test_strip_tags(text, expected):
    assert STEPS["strip_tags"](text) == expected


@pytest.mark.parametrize(
    "unit", ["<b", "<!--", "--><!--", "&amp;", "&amp", "&#38;", "<b>", "< ", "<!-- -->", "<b<!-- -->"]
)
@pytest.mark.parametrize("end", ["", ">", "amp;"])
def test_hostile_text_takes_linear_work(unit, end):
    for step in STEPS.values():
        step(unit * 50_000 + end * 50_000)  # quadratic work would take minutes, and a test run would notice


def test_punctuation_stays():
    assert clean("A street-smart, don't-miss film!", list(STEPS)) == "A street-smart, don't-miss film!"


def test_unknown_step_is_named():
    with pytest.raises(ValueError, match="'lower'; expected one of strip_tags"):
        clean("x", ["lower"])


def test_order_counts():
    steps = ["unescape_entities", "strip_tags", "collapse_blanks"]
    assert clean_batch({"text": ["&lt;b&gt; bold"]}, steps=steps) == {"text": ["bold"]}
