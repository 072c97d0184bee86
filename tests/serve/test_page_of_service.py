"""The page at / in headless Chromium, against the service itself."""

import csv
import io
import json
import re

import pytest
from browser import Chromium
from test_serve import classifier, inside, save_model, saved  # noqa: F401  (fixtures)

from bertcls import TextClassifier

LONG = "A <b>dull</b> film & a lovely room, 这部电影 😀 always good. " * 12
HOSTILE = "<img src=x onerror='window.ran = 1'> </textarea><script>window.ran = 1</script> \"'"
ROWS = [
    ["1", 'He said "good", twice', "x"],
    ["2", "two\nlines, and\r\nthree", ""],
    ["3", HOSTILE, " blanks "],
    ["4", "", "这部电影很好看"],
    *([str(n), f"film number {n}", ""] for n in range(5, 160)),
]


@pytest.fixture(scope="module")
def served(classifier):  # noqa: F811
    with inside(classifier) as (_, port):
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def open_page(browser: Chromium, address: str, **options) -> None:
    browser.events.clear()
    browser.go(address, **options)
    browser.wait("document.getElementById('about').textContent.startsWith('Model little-model')")


def label_file(browser: Chromium, path) -> str:
    """The file that the page offers after it labelled one."""
    browser.run(
        "window.made = null; const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { window.made = blob; return make.call(URL, blob); }"
    )
    browser.choose_file("#file", path)
    browser.wait("!document.getElementById('table').hidden")
    browser.run("document.getElementById('run').click()")
    browser.wait("!document.getElementById('saved').hidden || !document.getElementById('file-problem').hidden")
    assert browser.run("document.getElementById('file-problem').hidden")
    reading = "new Promise((done) => { const r = new FileReader(); r.onload = () => done(r.result); %s })"
    return browser.run(reading % "r.readAsText(window.made)")


def test_a_text_by_keyboard_alone(browser, served, classifier):  # noqa: F811
    open_page(browser, served)
    for _ in range(9):
        browser.press("Tab", 9)
        if browser.run("document.activeElement.id") == "text":
            break
    browser.type(LONG)
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.id") == "go"
    browser.press("Enter", 13)
    browser.wait("!document.getElementById('answer').hidden")
    truth = classifier.predict(LONG, windows=True)[0]
    assert browser.run("document.getElementById('answer-label').textContent") == truth.label
    rows = browser.run(
        "[...document.querySelectorAll('#bars tr')].map((row) => [row.cells[0].textContent, row.cells[2].textContent])"
    )
    shown = sorted(truth.probabilities.items(), key=lambda item: -item[1])
    assert rows == [[name, f"{100 * value:.1f} %"] for name, value in shown]
    bars = browser.run("[...document.querySelectorAll('.bar')].map((bar) => parseFloat(bar.style.width))")
    assert bars == pytest.approx([100 * value for _, value in shown], abs=0.01)
    windows = browser.run("[...document.querySelectorAll('#windows tbody tr')].map((row) => row.cells[1].textContent)")
    assert windows == [window.label for window in truth.windows] and len(windows) > 3
    read = browser.run("document.getElementById('read').textContent")
    assert "".join(read.split()) == "".join(LONG.replace("<b>", "").replace("</b>", "").split())
    browser.run("document.querySelectorAll('#windows button')[1].focus()")
    browser.press("Enter", 13)
    picked = browser.run("[...document.querySelectorAll('.picked')].map((part) => part.textContent).join('')")
    assert picked == truth.windows[1].text
    assert browser.run("document.querySelectorAll('#windows button')[1].getAttribute('aria-pressed')") == "true"
    browser.run("document.getElementById('text').value = '  '")
    browser.run("document.getElementById('text').focus()")
    browser.press("Enter", 13, control=True)
    browser.wait("document.getElementById('problem').textContent === 'There is no text yet.'")


def test_a_text_is_never_more_than_text(browser, served):
    open_page(browser, served)
    browser.run("document.getElementById('text').focus()")
    browser.type(HOSTILE * 9)
    browser.press("Enter", 13, control=True)
    browser.wait("!document.getElementById('answer').hidden")
    assert browser.run("[typeof window.ran, document.images.length, document.scripts.length]") == ["undefined", 0, 1]
    asked = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) >= 3 and all(url.startswith((served, "data:")) for url in asked)
    assert not [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
    refused = "fetch('http://127.0.0.2:9/').then(() => 'sent', () => 'refused')"
    assert browser.run(refused) == "refused"
    policy = [event for event in browser.events if "Content Security Policy" in json.dumps(event)]
    assert policy  # by the page's own policy


def test_the_words_that_decided_are_shown_where_they_stand(browser, served, classifier):  # noqa: F811
    text = "Never <i>dull</i> &amp; always good."
    open_page(browser, served)
    browser.run("document.getElementById('text').focus()")
    browser.type(text)
    browser.press("Enter", 13, control=True)
    browser.wait("!document.getElementById('deciding').hidden")
    shown = "[...document.querySelectorAll('#deciding-text > span')].map((part) => [part.firstChild.data, part.title])"
    (truth,) = classifier.predict(text, words=True)
    assert [word for word, _ in browser.run(shown)] == [word.text for word in truth.words]
    values = [float(title.replace("\u2212", "-")) for _, title in browser.run(shown)]
    assert values == pytest.approx([word.contributions[truth.label] for word in truth.words], abs=1e-3)
    without = "[...document.querySelectorAll('#deciding-text .hidden')].forEach((part) => part.remove())"
    browser.run(without)
    assert browser.run("document.getElementById('deciding-text').textContent") == text
    kinds = browser.run("[...document.querySelectorAll('#deciding-text > span')].map((part) => part.className)")
    for kind, value in zip(kinds, values):
        assert not kind or kind.startswith("for" if value > 0 else "against")
    assert not [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]


def test_blank_lines_of_one_column_come_back(browser, served, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text\na fine film\n\nbad\n")
    open_page(browser, served)
    lines = label_file(browser, path).splitlines()
    assert len(lines) == 4 and lines[2] == ",,"


def test_a_file_of_texts_has_one_a_line(browser, served, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("Good, but slow\nbad\n".encode("utf-16"))
    open_page(browser, served)
    content = label_file(browser, path)
    lines = content.splitlines()
    assert lines[0] == "text,predicted_label,predicted_score" and len(lines) == 3
    assert browser.run("table.mark") == "\ufeff"  # which reading takes away
    assert lines[1].startswith('"Good, but slow",') and lines[2].startswith("bad,")


@pytest.mark.parametrize("delimiter,line_end,mark", [(",", "\r\n", ""), (";", "\n", "\ufeff"), ("\t", "\n", "")])
def test_a_file_comes_back_labelled(browser, served, classifier, tmp_path, delimiter, line_end, mark):  # noqa: F811
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([["id", "review", "predicted_label"], *ROWS])
    path = tmp_path / "films.csv"
    path.write_bytes((mark + buffer.getvalue()).encode())
    open_page(browser, served)
    content = label_file(browser, path)
    assert browser.run("document.getElementById('download').download") == "films-labelled.csv"
    said = browser.run("document.getElementById('done').textContent")
    assert said == "All 159 rows are done. 1 of them have no text, and so no label."
    assert browser.run("document.getElementById('progress').value") == 158
    rows = list(csv.reader(io.StringIO(content.removeprefix("\ufeff"), newline=""), delimiter=delimiter))
    assert rows[0] == ["id", "review", "predicted_label", "predicted_label_2", "predicted_score"]
    assert [row[:3] for row in rows[1:]] == ROWS
    for row, truth in zip(rows[1:], classifier.predict([row[1] for row in ROWS])):
        if row[1] == "":
            assert row[3:] == ["", ""]  # as recipes/predict.py
            continue
        assert row[3] == truth.label and float(row[4]) == pytest.approx(truth.score, abs=1e-5)
    assert browser.run("typeof window.ran") == "undefined"


def test_files_that_cannot_be_read_are_told_why(browser, served, tmp_path):
    open_page(browser, served)
    cases = {
        "empty.csv": (b"", "The file is empty."),
        "header.csv": (b"text,label\n", "a header line and no rows"),
        "open.csv": (b'text\n"never closed\nmore\n', "quotation mark in line 2 is never closed"),
        "latin.csv": ("text\ncaf\u00e9\n".encode("latin-1"), "not UTF-8. Choose its encoding"),
        "binary.csv": (b"text\na\0b\n", "null bytes"),
        "commas.csv": (b"text\nfine\nGood, but slow\n", "Row 2 has 2 cells, and the header 1. Put texts that hold ,"),
        "sheet.xlsx": (b"PK\x03\x04\0\xff", "is a spreadsheet. Save it as CSV (UTF-8)."),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        browser.choose_file("#file", tmp_path / name)
        browser.wait(f"document.getElementById('file-problem').textContent.includes({json.dumps(name)})")
        assert message in browser.run("document.getElementById('file-problem').textContent")
        assert browser.run("document.getElementById('table').hidden")
    browser.choose_file("#file", tmp_path / "latin.csv")
    browser.wait("!document.getElementById('encodings').hidden")
    browser.run(
        "const e = document.getElementById('encoding'); e.value = 'windows-1252'; e.dispatchEvent(new Event('change'))"
    )
    browser.wait("!document.getElementById('table').hidden")


@pytest.mark.parametrize("width,dark", [(1280, False), (400, False), (400, True)])
def test_it_is_readable_and_scrolls_no_page_sideways(browser, served, tmp_path, width, dark):
    open_page(browser, served, width=width, dark=dark)
    browser.run("document.getElementById('text').focus()")
    browser.type(LONG + "w" * 400)
    browser.press("Enter", 13, control=True)
    browser.wait("!document.getElementById('answer').hidden")
    (tmp_path / "wide.csv").write_text("text,a\n" + ("w" * 300 + ",b\n") * 5)
    label_file(browser, tmp_path / "wide.csv")
    seen = "document.querySelector('#preview tbody td').getBoundingClientRect()"
    left, right = browser.run(f"[{seen}.left, {seen}.right]")
    assert browser.run("document.querySelector('#preview tbody td').textContent") in ("bad", "good")
    assert 0 <= left < right <= width
    assert browser.run("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    assert browser.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    back = browser.run("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", back)[:3])) < 80) is dark
    fields = "[...document.querySelectorAll('textarea, select, input, progress')]"
    assert browser.run(f"{fields}.filter((one) => !one.labels.length).map((one) => one.id)") == []


@pytest.fixture(scope="module")
def many(encoder_folder, tmp_path_factory):
    """The address of a service whose model gives two of its three labels to any text."""
    names = {0: "=HYPERLINK(1)", 1: "@b", 2: "c"}
    options = {"problem_type": "multi_label_classification", "id2label": names, "thresholds": [0.0, 0.0, 2.0]}
    folder = save_model(encoder_folder, tmp_path_factory.mktemp("many") / "little-model", **options)
    with inside(TextClassifier.from_pretrained(folder, device="cpu")) as (server, port):
        yield server.service.classifier, f"http://127.0.0.1:{port}/"


def test_each_of_several_labels_has_its_probability_and_none_is_a_formula(browser, many, tmp_path):
    classifier, address = many  # noqa: F811
    open_page(browser, address)
    browser.run("document.getElementById('text').value = 'a film'; document.getElementById('go').click()")
    browser.wait("!document.getElementById('answer').hidden")
    found = classifier.predict("a film")[0].probabilities
    each = ", ".join(f"{name} {100 * found[name]:.1f} %" for name in ("=HYPERLINK(1)", "@b"))
    said = browser.run("document.getElementById('answer-score').textContent")
    assert said.startswith(f"{each}. Each label has a probability of its own;")
    (tmp_path / "mine.csv").write_text("text\n=kept\n")
    rows = list(csv.reader(io.StringIO(label_file(browser, tmp_path / "mine.csv"))))
    assert rows[1][:2] == ["=kept", "'=HYPERLINK(1);@b"]


def test_a_key_is_asked_for(browser, classifier):  # noqa: F811
    with inside(classifier, api_key="secret") as (_, port):
        browser.go(f"http://127.0.0.1:{port}/")
        browser.wait("!document.getElementById('key-form').hidden")
        browser.run("document.getElementById('key').focus()")
        browser.type("secret")
        browser.press("Enter", 13)
        browser.wait("document.getElementById('about').textContent.startsWith('Model little-model')")
        assert browser.run("document.getElementById('key-form').hidden")
        browser.go("about:blank")


def test_pages_load_nothing(served):
    import urllib.request

    for path in ("", "docs"):
        with urllib.request.urlopen(served + path) as answer:
            content, policy = answer.read().decode(), answer.headers["content-security-policy"]
        assert "http://" not in content and "https://" not in content and "@import" not in content
        assert "url(" not in content and " src=" not in content and " on" + "click=" not in content
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy
