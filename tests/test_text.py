import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bertcls.text import STEPS, check_steps, clean

MARKUP = st.text(alphabet=st.sampled_from(list("ab &;<>/!-#x39ampltg\n\t\"'=")), max_size=60)
MAIL = [
    "From: a\n",
    "Subject: b\n",
    "Lines: 1\n",
    "X-A: b\n",
    "Note: c\n",
    " d\n",
    "\n",
    "\r\n",
    " \n",
    "> e\n",
    "| f\n",
]
MAIL += [
    "Ann writes:\n",
    "In article <1@b>\n",
    "wrote:\n",
    "On 1 May 2003, 10:00, Ann\n",
    "text\n",
    "From:",
    ">",
    "\t",
]
WEB = ["http://", "https", "://", "www.", "HTTP", "w", "/", ".", ",", ")", "@", "@@", "user", "a", "é", "_", "+", " "]
SCRIPTS = list("aＡｚ１＠，。、　ｶﾊﾞﾟ･「｢が漢あ가ﬁİΣς'’-‐_!¿—$©😀 \u0300\u0316\u3099\u0f73\u0344")
ODD = st.one_of(*(st.lists(st.sampled_from(parts), max_size=25).map("".join) for parts in (MAIL, WEB, SCRIPTS)))


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=300)
@given(text=MARKUP | ODD | st.text(max_size=60))
def test_steps_are_idempotent(name, text):
    assume(name != "unescape_entities" or text.count("&") <= 4)  # deeper ones are left as they are
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        *("&#", "<b", "<!--", "--><!--", "&amp;", "&amp", "&#38;", "<b>", "< ", "<!-- -->", "<b<!-- -->"),
        *(
            "http://",
            "http://.",
            "www.)",
            "@",
            "@a",
            "\u6f22@b",
            "From:\n\n",
            "From: a\n b\n",
            "x-",
            " \n",
            "writes  ",
        ),
        *(
            "writes in <",
            "On 0:",
            "> q\n",
            "Ann writes:\n",
            "-",
            "a'",
            "\u0300\u0316",
            "\uff9e\u0300",
            "\u0f73",
            "\u03a3'",
        ),
    ],
)
@pytest.mark.parametrize("end", ["", ">", "amp;", " \n", "3;"])
def test_hostile_text_takes_linear_work(unit, end):
    for step in STEPS.values():
        step(unit * 50_000 + end * 50_000)  # quadratic work would take minutes, and a test run would notice


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So true https://t.co/Ab3?x=1&y=2 !", "So true http !"),
        ("See (HTTP://a.org/b), www.b.de/c.", "See (http), http."),  # the marks around an address stay
        ('<a href="http://a.org/b">here</a>', '<a href="http">here</a>'),
        ("去看http://t.cn/A1，很好www.a.cn。", "去看http，很好http。"),  # no blanks in Chinese
        ("awww.so cute, http or http:// alone", "awww.so cute, http or http:// alone"),  # no addresses
    ],
)
def test_mask_urls(text, expected):
    assert STEPS["mask_urls"](text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@bob_1 and .@Eve: hi", "@user and .@user: hi"),
        ("mail bob.smith@example.org", "mail bob.smith@example.org"),
        ("josé@example.org, a@b@c", "josé@example.org, a@b@c"),
        ("回复@小明：好", "回复@user：好"),
        ("@bobさん、ありがとう", "@userさん、ありがとう"),  # Twitter's names are ASCII, so Japanese follows at once
        ("meet @ 5, or @", "meet @ 5, or @"),
    ],
)
def test_mask_user_names(text, expected):
    assert STEPS["mask_user_names"](text) == expected


POST = """From: lerxst@wam.umd.edu (where's my thing)
Subject: WHAT car is this!?
Nntp-Posting-Host: rac3.wam.umd.edu
Summary: a car
 seen the other day
Lines: 15

"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            POST + "I was wondering.\n\nSubject: to change",
            "I was wondering.\n\nSubject: to change",
        ),  # at the start only
        ("\n" + POST + "\n" + POST + "Body", "Body"),  # a forwarded post
        (POST.replace("\n", "\r\n") + "Body", "Body"),
        ("Subject: hi\n\nBody", "Body"),
        ("Note: read this\n\nBody", "Note: read this\n\nBody"),
        ("Summary: a fine film\n\nBody", "Summary: a fine film\n\nBody"),  # a header's name, but a review may say it
        ("From: a\nThe rest is text\n\nBody", "From: a\nThe rest is text\n\nBody"),
        ("Subject: only a line", "Subject: only a line"),  # no blank line: the text would be gone
    ],
)
def test_drop_email_headers(text, expected):
    assert STEPS["drop_email_headers"](text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann Lee writes:\n>Is it?\n\n >> No.\nYes.", "\nYes."),
        ("In article <1pp@cc.edu>\nann@cc.edu (Ann Lee) writes:\n\n|> Is it?\nYes.", "\nYes."),
        ("On Monday, Ann wrote:\n> Is it?\nYes.", "Yes."),
        ("On Mon, 5 May 2003 at 10:02, Ann <a@b.org>\nwrote:\n> Is it?\nYes.", "Yes."),
        ("ann@cc.edu writes in article <1@cc.edu>:\r\n> Is it?\r\nYes.", "Yes."),
        ("As she wrote:\nno quote here", "As she wrote:\nno quote here"),
        ("I know what he said.\n> Is it?", "I know what he said."),  # a sentence, not an attribution
        ("5 > 3 | 2", "5 > 3 | 2"),
    ],
)
def test_drop_quoted_lines(text, expected):
    assert STEPS["drop_quoted_lines"](text) == expected


@given(st.text(alphabet=list("ae가ｶﾞﾟ゙\u0300\u0316\u0323\u0f73\u0344\u1ec7— \n"), max_size=90) | st.text())
def test_nfkc_is_that_of_unicode(text):
    assert STEPS["nfkc"](text) == unicodedata.normalize("NFKC", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A street-smart, don't-miss film!", "A street-smart  don't-miss film "),
        ("‘It’s’ 1990-2000 – fine…", " It’s  1990-2000   fine "),
        ("'tis the dogs' -5 rock-'n'-roll", " tis the dogs   5 rock  n  roll"),
        ("cafe\u0301's", "cafe\u0301's"),  # the accent belongs to the letter
        ("好，「很」好。", "好  很 好 "),
        ("snake_case 5$ + 😀", "snake case 5$ + 😀"),
    ],
)
def test_remove_punctuation(text, expected):
    assert STEPS["remove_punctuation"](text) == expected


@given(st.text(alphabet=st.sampled_from(SCRIPTS)) | st.text())
def test_no_other_punctuation_is_left(text):
    marks = {char for char in STEPS["remove_punctuation"](text) if unicodedata.category(char)[0] == "P"}
    assert marks <= set("'’-‐‑")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ｗｉｆｉ＋１０％", "Wifi+10%"),
        ("很好，真的！（是吗？）：；～", "很好，真的！（是吗？）：；～"),  # Chinese is written so
        ("一\u3000二", "一 二"),
        ("ﾎﾃﾙ､ｶﾞｲﾄﾞ｡｢ﾊﾟﾘ･｣", "ホテル、ガイド。「パリ・」"),
        ("(ﾟДﾟ) あﾞ", "(゜Д゜) あ゛"),  # lone sound marks
        ("房间wifi很差123", "房间wifi很差123"),  # no blanks are put in
    ],
)
def test_normalise_width(text, expected):
    assert STEPS["normalise_width"](text) == expected


def test_punctuation_stays():
    steps = ["strip_tags", "unescape_entities", "collapse_blanks", "mask_urls", "mask_user_names", "nfkc"]
    assert clean("A street-smart, don't-miss film!", steps) == "A street-smart, don't-miss film!"


@pytest.mark.parametrize("call", [check_steps, lambda steps: clean("x", steps)])
def test_unknown_step_is_named(call):
    with pytest.raises(ValueError, match="'lower'; expected one of strip_tags"):
        call(["lower_case", "lower"])


def test_known_steps_pass():
    assert check_steps(list(STEPS)) is None and check_steps(None) is None and clean(" x ", None) == " x "


def test_order_counts():
    steps = ["unescape_entities", "strip_tags", "collapse_blanks"]
    assert clean("&lt;b&gt; bold", steps) == "bold"
    assert clean("&lt;b&gt; bold", ["strip_tags", "unescape_entities", "collapse_blanks"]) == "<b> bold"
    assert clean("a\n> b", ["drop_quoted_lines", "collapse_blanks"]) == "a"
    assert clean("a\n> b", ["collapse_blanks", "drop_quoted_lines"]) == "a > b"  # the lines are gone
