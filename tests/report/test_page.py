import base64
import html
import json
import logging
import re
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from browser import find_browser
from datasets import ClassLabel, Dataset
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from bertcls.report import figures
from bertcls.report.card import write_card
from bertcls.report.findings import confused_pairs
from bertcls.report.page import FIGURES, PAGE, write_page
from bertcls.report.scores import describe_scores, score_reported
from bertcls.report.write import write_metrics

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = [
    "<script>parent.ran = 1; document.title = 'ran'; alert(1)</script> a film",
    '"onmouseover="parent.ran = 1',
    "' onfocus='parent.ran = 1' autofocus='",
    "<img src=x onerror='parent.ran = 1'>",
    "</style></title></pre></details><script>parent.ran = 1</script>",
    "{{ 7*7 }} {% include 'x' %} {# gone #}",
    "这部电影很好看，我非常喜欢。",
    "😀🤣 \u202e overridden & &amp; &lt;b&gt;",
    "line one\n\n    line two\tend",
    "w" * 20_000,
]
NEWSGROUPS = (
    "alt.atheism comp.graphics comp.os.ms-windows.misc comp.sys.ibm.pc.hardware comp.sys.mac.hardware comp.windows.x "
    "misc.forsale rec.autos rec.motorcycles rec.sport.baseball rec.sport.hockey sci.crypt sci.electronics sci.med "
    "sci.space soc.religion.christian talk.politics.guns talk.politics.mideast talk.politics.misc talk.religion.misc"
).split()
LABELS = {
    "binary": ["negative", "<script>parent.ran = 1</script>"],
    "twenty": NEWSGROUPS,
    "multi-label": ["好评", "差评", '"onmouseover="parent.ran=1', "$a$ and $b$"],
    "regression": [],
}
KINDS = list(LABELS)


def task_facts(kind: str) -> dict:
    """The part of the facts that every task has, with scores that look alike only if they are."""
    labels = LABELS[kind]
    scores = {"test_samples": 1872, "train_runtime": 732.8541, "reported_split": "validation"}
    if kind == "regression":
        problem = "regression"
        scores |= {"test_pearson": 0.81234, "test_pearson_low": 0.78765, "test_pearson_high": 0.83456}
        scores |= {
            "test_rmse": 0.45678,
            "test_mae": 0.34567,
            "test_mae_low": 0.31,
            "test_mae_high": 0.38,
            "test_r2": 0.65432,
            "test_spearman": 0.79876,
        }
        scores |= {"before_pearson": 0.0123, "eval_pearson": 0.8345, "before_r2": -17.2, "eval_r2": 0.66}
    else:
        problem = "multi_label_classification" if kind == "multi-label" else "single_label_classification"
        scores |= {"test_accuracy": 0.88532, "test_accuracy_low": 0.86246, "test_accuracy_high": 0.90481}
        scores |= {"test_f1_macro": 0.87654, "test_precision_macro": 0.86543, "test_recall_macro": 0.89012}
        scores |= {
            "before_accuracy": 0.46748,
            "eval_accuracy": 0.91446,
            "before_f1_macro": 0.44,
            "eval_f1_macro": 0.91,
        }
        scores["test_per_class"] = {
            name: {key: 0.5 + number / 77 + place / 1000 for place, key in enumerate(("precision", "recall", "f1"))}
            | {"support": 400 + number}
            for number, name in enumerate(labels)
        }
        scores["test_cohen_kappa"] = 0.73456  # of one's own
    if kind == "multi-label":
        scores["test_f1_micro"] = 0.92345
    if problem.startswith("single"):
        scores["test_confusion_matrix"] = counts(len(labels))
    return {
        "headline": f"The encoder is better than TF-IDF. {HOSTILE[0]}",
        "name": f"my run {HOSTILE[0]}",
        "chosen": {"by": "accuracy", "made": 90, "linear": False},
        "data": f"reviews {HOSTILE[3]}",
        "scores": scores,
        "task": {
            "problem_type": problem,
            "labels": labels,
            "reported_split": "validation",
            "rows": {"train": 62925, "validation": 3370, "test": 1872},
            "label_shares": {split: dict.fromkeys(labels, 0.5) for split in ("train", "validation", "test")},
        },
        "run": {
            "command": ["recipes/x.py", "--text", HOSTILE[1], "--seed", "1"],
            "git_commit": None,
            "started": "2026-02-03 04:05 UTC",
            "versions": {"python": "3.11.2", "torch": "2.13.0"},
            "train_seconds": 732.8541,
            "peak_memory_gib": {"process": 1.62, "accelerator": None},
        },
        "arguments": {"learning_rate": 5e-05, "max_steps": -1, "optim": HOSTILE[3]},
        "model": {
            "encoder": HOSTILE[4],
            "parameters": 22713986,
            "pooling": "mean",
            "contract": {"cleaning": ["strip_html"], "max_length": 128, "thresholds": [0.25, 0.5], "overlap": None},
        },
        "audit": {"lines": ["      train  test", "rows     12     3", HOSTILE[0]]},
    }


def counts(number: int) -> list[list[int]]:
    draw = np.random.default_rng(0)
    return (draw.integers(0, 9, (number, number)) + 300 * np.eye(number, dtype=int)).tolist()


def bins() -> list[dict]:
    return [
        {"low": n / 15, "high": (n + 1) / 15, "rows": 7 * n, "confidence": (n + 0.4) / 15, "accuracy": n / 15}
        for n in (7, 8, 10, 11, 12, 13, 14)  # none of 9, as calibration_error leaves out
    ]


def coverage_points() -> list[dict]:
    shares = (1.0, 0.951, 0.9, 0.8, 0.7, 0.5)
    return [
        {"threshold": 1.4 - s, "coverage": s, "accuracy": 1 - s / 8, "low": 0.96 - s / 8, "high": 1 - s / 9}
        for s in shares
    ]


def all_facts(kind: str) -> dict:
    facts = task_facts(kind)
    names = LABELS[kind] or ["value", "value"]
    facts |= {
        "measure": "accuracy",
        "baselines": [
            {"name": HOSTILE[0], "score": 0.5, "low": 0.4, "high": 0.6, "p_value": 1e-20, "outcome": "better"},
            {"name": "TF-IDF", "score": 0.87, "low": 0.86, "high": 0.88, "p_value": None, "outcome": "cannot tell"},
            {"name": "a forest", "score": 0.93, "low": 0.92, "high": 0.94, "p_value": 0.01, "outcome": "worse"},
        ],
        "calibration": {
            "temperature": 1.31,
            "ece_before": 0.06214,
            "ece": 0.02187,
            "bins": bins(),
            "coverage": coverage_points(),
        },
        "slices": [
            {"slice": s, "group": g, "rows": 90, "score": 0.8, "low": 0.7, "high": 0.87}
            | {"outcome": "worse" if g == HOSTILE[1] else "cannot tell"}
            for s, g in (("words", "2 to 9 words"), ("words", HOSTILE[1]), (HOSTILE[2], "with"), (HOSTILE[2], "no"))
        ],
        "confusions": [{"label": names[0], "prediction": names[1], "rows": 52, "share": 52 / 428}],
        "errors": [
            {
                "example_id": 7000 + number,
                "text": text,
                "label": names[0],
                "prediction": names[1],
                "probability": 0.99997,
                "pieces": ["▁a", "##b", HOSTILE[0]],
                "probabilities": {name: 1 / len(names) for name in names},
                "similar": [{"text": text, "label": names[1], "similarity": 0.41}],
            }
            for number, text in enumerate(HOSTILE)
        ],
        "probes": [
            {"group": 1, "text": text, "prediction": n % 2, "probability": 0.9, "expected": None, "right": None}
            for n, text in enumerate(HOSTILE[:3])
        ]
        + [{"group": 2, "text": "x", "prediction": 0, "probability": 0.5, "expected": 1, "right": False}],
    }
    if kind == "multi-label":  # lists of names, no coverage, and which decision was wrong
        del facts["calibration"]["coverage"]
        facts["measure"] = "share of texts with exactly the right labels"
        facts["confusions"].append({"label": None, "prediction": names[2], "rows": 3, "share": 0.01})
        for error in facts["errors"]:
            error |= {"label": names[:2], "prediction": [], "decision": names[0], "probability": 0.03}
    if kind == "regression":
        del facts["calibration"], facts["confusions"]
        facts["measure"] = "mean absolute error"
        for row in facts["baselines"]:
            row |= {"score": 3.5, "low": 3.1, "high": 4.0}
        for error in facts["errors"]:
            error |= {"label": 4.5, "prediction": 1.25, "probability": None, "probabilities": {}}
            error["similar"][0]["label"] = 3.25
    for probe in facts["probes"]:
        for key in ("prediction", "expected"):
            probe[key] = 1.5 if kind == "regression" else None if probe[key] is None else names[probe[key]]
    return facts


def draw_all(facts: dict, folder) -> list[str]:
    """The figures that such a run has, as `write_report` draws them."""
    scores, labels = facts["scores"], facts["task"]["labels"]
    score = "eval_pearson" if "eval_pearson" in scores else "eval_accuracy"
    history = [{"loss": 0.7 / step, "epoch": step / 4, "step": step} for step in range(1, 9)]
    history += [{"eval_loss": 0.7 - 0.1 * epoch, score: 0.4 + 0.1 * epoch, "epoch": epoch} for epoch in range(3)]
    figures.draw_curves(history, folder / "curves.png")
    figures.draw_lengths({"train": [3, 9, 400], "test": [5]}, 128, folder / "lengths.png")
    figures.draw_before_after(scores, folder / "before_after.png")
    if labels:
        figures.draw_shares(facts["task"]["label_shares"], folder / "label_shares.png")
    if not labels:
        truth = np.arange(30.0)
        figures.draw_predictions(truth, truth**0.9, "stars", folder / "predictions.png")
    if "test_confusion_matrix" in scores:
        figures.draw_confusion(scores["test_confusion_matrix"], labels, folder / "confusion.png")
    if "calibration" in facts:
        classes = len(labels) if "coverage" in facts["calibration"] else None
        figures.draw_reliability(facts["calibration"]["bins"], folder / "reliability.png", classes=classes)
    if "coverage" in facts.get("calibration", {}):
        figures.draw_coverage(facts["calibration"]["coverage"], folder / "coverage.png")
    return sorted(path.stem for path in folder.glob("*.png"))


class Page(HTMLParser):
    """Tags with their attributes in order, all text, and the text by id; tags have to close in order."""

    def __init__(self, content: str):
        super().__init__()
        self.tags, self.text, self.by_id, self.rows, self.open = [], "", {}, [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        assert "id" not in attributes or attributes["id"] not in self.by_id
        if "id" in attributes:
            self.by_id[attributes["id"]] = ""
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        for tag, name in self.open:
            if name is not None:
                self.by_id[name] += data
            if tag in ("td", "th"):
                self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    written = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        facts = all_facts(kind)
        drawn = draw_all(facts, folder)
        path = write_page(facts, folder)
        assert path == folder / PAGE
        content = path.read_text(encoding="utf-8")
        written[kind] = facts, content, Page(content), drawn
    assert len(written) == 4
    return written


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_needs_nothing_else_and_runs_nothing(pages, kind):
    _, content, page, drawn = pages[kind]
    assert "http://" not in content and "https://" not in content
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    sources = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "srcset")]
    assert len(sources) == len(drawn) and all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(attributes["href"].removeprefix("#") in page.by_id for attributes in page.all("a"))
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "url(" not in content and "@import" not in content
    assert [a["content"] for a in page.all("meta") if a.get("http-equiv")] == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_shows_as_it_is(pages, kind):
    facts, _, page, _ = pages[kind]
    assert page.by_id["h-made"] and facts["headline"] in page.text
    shown = [facts["model"]["encoder"], facts["arguments"]["optim"], *facts["audit"]["lines"], *LABELS[kind]]
    shown += [row["text"] for row in facts.get("errors") or []]
    assert len(shown) >= 5
    for text in shown:
        assert text in page.text
    if kind == "binary":
        assert len(page.all("article")) == len(HOSTILE) and page.text.count("w" * 20_000) == 2  # it, and its like
        assert page.text.count("w" * 300 + "…") == 2 and "The whole text, 20,000 characters" in page.text
        heading = f"Labelled negative, predicted {LABELS[kind][1]} with probability > 0.999 (example 7003)"
        assert heading in page.text and f"Similar training texts: {LABELS[kind][1]}" in page.text
        assert "answers differ" in page.text and "wrong" in page.text


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_the_score_is_that_of_the_facts(pages, kind):
    facts, content, page, _ = pages[kind]
    scores = facts["scores"]
    shown = {key: text for key, text in page.by_id.items() if key.startswith("test_") and key != "test_samples"}
    main = "test_pearson" if kind == "regression" else "test_accuracy"
    assert {main, f"{main}_low", f"{main}_high"} < set(shown) and len(shown) >= 6
    assert shown == {key: f"{scores[key]:.{4 if key in ('test_rmse', 'test_mae') else 3}f}" for key in shown}
    assert page.by_id["test_samples"] == "1,872"
    order = [content.index(text) for text in ("<h1>", f'id="{main}"', f'id="{main}_low"', "<nav", "<h2")]
    assert order == sorted(order)
    for number, (name, row) in enumerate(scores.get("test_per_class", {}).items()):
        values = [f"{row[key]:.3f}" for key in ("precision", "recall", "f1")]
        assert [str(number), name, *values, str(400 + number)] in page.rows
    if "test_confusion_matrix" in scores:
        for name, row in zip(LABELS[kind], scores["test_confusion_matrix"]):
            assert [name, *map(str, row)] in page.rows
        assert page.by_id["ece"] == "0.022" and page.by_id["ece_before"] == "0.062"
        assert ["TF-IDF", "0.870", "0.860 to 0.880", "", "–", "cannot tell"] in page.rows
        assert ["a forest", "0.930", "0.920 to 0.940", "", "0.01", "worse"] in page.rows
        assert ["0.900", "50.0 %", "0.938", "0.897 to 0.944"] in page.rows
        assert page.by_id["test_cohen_kappa"] == "0.735" and "cohen kappa" in page.text
    if kind == "regression":
        assert ["R²", "-17.200", "0.660"] in page.rows
        assert ["this encoder", "0.3457", "0.3100 to 0.3800", "", "", ""] in page.rows
        assert ["TF-IDF", "3.500", "3.100 to 4.000", "", "–", "cannot tell"] in page.rows
        assert "Mean absolute error with its 95 % interval; the line runs from 0 to 4" in page.text
    if kind == "multi-label":
        assert ["–", LABELS[kind][2], "3", "1.0 %"] in page.rows
        assert f"its probability of {LABELS[kind][0]} is 0.030" in page.text


def test_an_outcome_has_its_own_words_and_colour(pages):
    """Worse is red, better is green, and what cannot be told is neither."""
    for _, content, _, _ in pages.values():
        marks = re.findall('<td class="mark ([a-z]+)">([^<]*)</td>', content)
        looks = {"better": "good", "worse": "bad", "cannot tell": "soft", "": "soft"}
        assert {word for _, word in marks} == {*looks} and all(look == looks[word] for look, word in marks)


@pytest.mark.parametrize("kind", KINDS)
def test_the_title_is_the_run_its_data_and_its_date_and_the_rows_have_one_name_each(pages, kind):
    facts, content, page, _ = pages[kind]
    about = f"{facts['name']} · {facts['data']} · 1,872 rows of validation · 2026-02-03 04:05 UTC"
    assert page.by_id["about"] == about
    title = html.unescape(re.search("<title>(.*?)</title>", content)[1])
    assert title.startswith(f"Report of {facts['name']}: ") and title.endswith(f" on {facts['data']}")
    assert ["train", "selection", "validation"] in page.rows and ["62,925", "3,370", "1,872"] in page.rows
    text = re.sub(r"\s+", " ", page.text)
    assert "is chosen by the selection rows. The score is that of validation" in text
    assert "Both on the selection rows" in text and "alidation loss" not in text and "validation rows," not in text


def test_sections_stand_in_their_order_or_are_left_out(pages):
    sections = {
        kind: [attributes["id"] for attributes in page.all("section")] for kind, (*_, page, _) in pages.items()
    }
    last = ["data", "curves", "before-after", "made"]
    order = ["baselines", "classes", "calibration", "slices", "confusions", "errors", "probes", *last]
    numbers = [name for name in order if name not in ("calibration", "confusions")]
    assert sections == {"binary": order, "twenty": order, "multi-label": order, "regression": numbers}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_can_be_read_aloud(pages, kind):
    _, _, page, _ = pages[kind]
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(attributes["alt"] for attributes in page.all("img"))
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert regions and all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in regions)


def test_figures_of_the_folder_are_inside_to_the_byte(pages, tmp_path):
    facts, content, _, drawn = pages["binary"]
    assert drawn == sorted({*FIGURES} - {"predictions"}) and "predictions" in pages["regression"][3]
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', content)]
    assert len(inside) == len(drawn) and all(data.startswith(b"\x89PNG") for data in inside)
    bare = write_page(facts, tmp_path).read_text(encoding="utf-8")
    assert "<img" not in bare and "<figure" not in bare and 'id="curves"' not in bare
    figures.draw_shares({"train": {"a": 1.0}}, tmp_path / "label_shares.png")
    assert base64.b64encode((tmp_path / "label_shares.png").read_bytes()).decode() in write_page(
        facts, tmp_path
    ).read_text(encoding="utf-8")


def test_a_page_of_little(tmp_path):
    facts = task_facts("binary")
    page = Page(write_page({key: facts[key] for key in ("headline", "scores", "task")}, tmp_path).read_text("utf-8"))
    assert [attributes["id"] for attributes in page.all("section")] == ["classes", "data", "before-after"]
    facts["scores"] = {"test_accuracy": float("nan")}
    facts["audit"] = {"lines": ["a lone half \ud83d of an emoji"]}
    page = Page(write_page(facts, tmp_path).read_text("utf-8"))
    assert page.by_id["test_accuracy"] == "–" and "a lone half ? of an emoji" in page.text


HARNESS = """<!DOCTYPE html><meta charset="utf-8"><title>harness</title><body>%s<pre id="out"></pre><script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    page.querySelectorAll("details").forEach(one => one.open = true);
    const images = [...page.images];
    return {
      width: root.scrollWidth, viewport: frame.contentWindow.innerWidth, title: page.title,
      scripts: page.scripts.length, images: images.length, decoded: images.filter(one => one.naturalWidth).length,
      loaded: frame.contentWindow.performance.getEntriesByType("resource")
        .filter(one => !one.name.startsWith("data:")).length,
      dark: frame.contentWindow.getComputedStyle(root).backgroundColor,
    };
  });
  document.getElementById("out").textContent = JSON.stringify({ran: window.ran === 1, seen});
};
</script>"""


def browse(folder, contents: dict[int, str], *options: str) -> dict:
    """What headless Chromium sees of pages in frames of these widths (pixels), each detail unfolded."""
    browser = find_browser()
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(content)}"></iframe>'
        for width, content in contents.items()
    )
    (folder / "harness.html").write_text(HARNESS % frames, encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom", *options]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    address = (folder / "harness.html").as_uri()
    done = subprocess.run([*command, address], capture_output=True, encoding="utf-8", timeout=180, check=True)
    return json.loads(html.unescape(re.search('<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


@pytest.mark.parametrize("kind", ["binary", "twenty"])
def test_a_browser_runs_nothing_and_scrolls_no_page_sideways(pages, kind, tmp_path):
    _, content, _, drawn = pages[kind]
    policy = re.compile('<meta http-equiv="Content-Security-Policy"[^>]*>')
    unguarded, found = policy.subn("", content)  # escaping alone has to do
    assert found == 1
    report = browse(tmp_path, {1280: content, 400: content, 401: unguarded, 1281: unguarded})
    assert report["ran"] is False and [seen["width"] for seen in report["seen"]] == [1280, 400, 401, 1281]
    for seen in report["seen"]:
        assert seen["width"] == seen["viewport"] and seen["title"].startswith("Report of my run <script>")
        assert seen["scripts"] == seen["loaded"] == 0
        assert seen["images"] == seen["decoded"] == len(drawn)


def test_a_browser_would_see_a_script_and_a_page_too_wide(tmp_path):
    wide = "<title>x</title><script>parent.ran = 1</script><div style='width:500px'>x</div>"
    report = browse(tmp_path, {400: wide})
    assert report["ran"] and report["seen"][0]["scripts"] == 1 and report["seen"][0]["width"] > 400


@pytest.mark.slow
def test_dark_where_the_reader_wants_it(pages, tmp_path):
    content = pages["regression"][1]
    backs = [
        browse(tmp_path, {1280: content}, *options)["seen"][0]["dark"]
        for options in ([], ["--blink-settings=preferredColorScheme=0"])
    ]
    assert backs == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def lengths(rows: int, spread: float) -> list[int]:
    return np.random.default_rng(0).lognormal(3, spread, rows).astype(int).tolist()


EVALUATIONS = [
    {"eval_loss": 0.7, "eval_r2": -900.0, "eval_pearson": 0.0, "eval_rmse": 9.0, "epoch": 0, "step": 0},
    {"eval_loss": float("nan"), "eval_r2": 0.5, "eval_pearson": 0.7, "eval_rmse": 1.0, "epoch": 1.0, "step": 9},
]
SPLITS = ("train", "validation", "test")
FIGURE_CASES = {
    "curves": ("draw_curves", [{"loss": 1 / n, "epoch": n / 50, "step": n} for n in range(1, 99)] + EVALUATIONS),
    "curves of one step": ("draw_curves", [{"loss": 0.5, "epoch": 1.0, "step": 1}]),
    "curves of other scores": ("draw_curves", [{"eval_loss": 2.0, "eval_masked_accuracy": 0.4, "epoch": 1.0}]),
    "curves of nothing": ("draw_curves", []),
    "before and after": ("draw_before_after", {"before_accuracy": 0.5, "eval_accuracy": 0.9, "before_f1_macro": 0.3}),
    "before and after of a regression": ("draw_before_after", {"before_r2": -900.0, "eval_r2": 0.5}),
    "2 classes": ("draw_confusion", counts(2), ["negative", "positive"]),
    "2 long names": ("draw_confusion", counts(2), ["soc.religion.christian", "x" * 200]),
    "4 odd names": ("draw_confusion", counts(4), ["好评", "😀", "$\\frac$", "two\nlines"]),
    "20 classes": ("draw_confusion", counts(20), NEWSGROUPS),
    "77 classes": ("draw_confusion", counts(77), [f"intent_{n}" for n in range(77)]),
    "400 classes": ("draw_confusion", counts(400), [f"intent_{n}" for n in range(400)]),
    "a class without rows": ("draw_confusion", [[0, 0], [3, 4]], ["a", "b"]),
    "reliability": ("draw_reliability", bins()),
    "reliability of 15 bins": (
        "draw_reliability",
        [
            {"low": n / 15, "high": (n + 1) / 15, "rows": 1234, "confidence": n / 15, "accuracy": 0.9}
            for n in range(15)
        ],
    ),
    "coverage": ("draw_coverage", coverage_points()),
    "coverage of one point": ("draw_coverage", [coverage_points()[0]] * 6),
    "lengths": ("draw_lengths", {split: lengths(900, 0.6) for split in SPLITS}, 128),
    "lengths with a long tail": ("draw_lengths", {split: lengths(900, 2.0) for split in SPLITS}, 256),
    "lengths of posts": ("draw_lengths", {split: lengths(900, 3.0) for split in SPLITS}, 128),
    "predictions": ("draw_predictions", np.arange(50.0), np.arange(50.0) ** 0.9, "stars"),
    "predictions of many rows": ("draw_predictions", np.tile(np.arange(50.0), 99), np.tile(np.ones(50), 99), "$a"),
    "lengths far below": ("draw_lengths", {"train": [3, 4, 5], "test": []}, 8192),
    "lengths without a limit": ("draw_lengths", {"train": [1]}, None),
    "shares of 2": ("draw_shares", {split: {"negative": 0.4, "positive": 0.6} for split in SPLITS}),
    "shares of 20": ("draw_shares", {split: dict.fromkeys(NEWSGROUPS, 0.05) for split in SPLITS}),
    "shares of 300": ("draw_shares", {split: {f"intent {n}": 1 / 300 for n in range(300)} for split in SPLITS}),
    "shares of which one split lacks a label": ("draw_shares", {"train": {"好评": 0.9, "b": 0.1}, "test": {"b": 1.0}}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", FIGURE_CASES)
def test_figures_are_drawn_without_a_warning_and_can_be_read(case, tmp_path, monkeypatch, caplog):
    name, *arguments = FIGURE_CASES[case]
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (save(self, *args, **kw), saved.append(self)))
    with caplog.at_level(logging.WARNING, logger="matplotlib"):
        assert getattr(figures, name)(*arguments, tmp_path / "figure.png") is None
    assert not caplog.records
    pixels = matplotlib.image.imread(tmp_path / "figure.png")
    height, width = pixels.shape[:2]
    assert 300 < width < 3200 and 300 < height < 3200 and pixels[..., :3].std() > 0.02
    (figure,) = saved
    frame = [pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]]
    assert all((part == 1).all() for part in frame)  # nothing is cut off
    labelled = [axes for axes in figure.axes if axes.get_xlabel() or axes.get_ylabel()]
    assert labelled == figure.axes
    for axes in [*figure.axes, *(child for one in figure.axes for child in one.child_axes)]:
        for texts in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts):
            boxes = [text.get_window_extent() for text in texts if text.get_text()]
            for one, other in zip(boxes, boxes[1:]):
                assert not (one.overlaps(other) and min(one.width, other.width) > 1)


def test_a_bar_that_is_cut_has_its_own_number(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: saved.append(self))
    figures.draw_before_after(
        {"before_r2": -17.234, "eval_r2": 0.512, "before_loss": 3.0}, tmp_path / "x.png", rows=99
    )
    axes = saved[0].axes[0]
    assert [round(bar.get_width(), 3) for bar in axes.patches] == [-1, 0.512]
    assert [text.get_text() for text in axes.texts] == ["-17.23", "0.51"]


def test_the_chosen_model_is_no_point_of_the_curve(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: saved.append(self))
    losses = [0.7, 0.4, 0.5, 0.6]
    keys = ("eval_loss", "eval_accuracy", "epoch", "step")
    history = [dict(zip(keys, (loss, 1 - loss, float(n), 10 * n))) for n, loss in enumerate(losses)]
    again = dict(zip(keys, (0.40001, 0.6, 3.0, 30)))  # load_best_model_at_end, then evaluate
    for entries, step, chosen in ((history, None, []), ([*history, again], 10, [1.0, 1.0])):
        figures.draw_curves(entries, tmp_path / "x.png", best_step=step)
        lines = {line.get_label(): list(line.get_ydata()) for line in saved[-1].axes[0].lines}
        assert lines["selection"] == losses
        marks = [line for axes in saved[-1].axes for line in axes.lines if line.get_label() == "chosen model"]
        assert [line.get_xdata()[0] for line in marks] == chosen


def test_class_names_stand_on_both_axes(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: saved.append(self))
    figures.draw_confusion(counts(20), NEWSGROUPS, tmp_path / "x.png")
    axes = saved[0].axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == NEWSGROUPS
    assert [text.get_text() for text in axes.get_yticklabels()] == NEWSGROUPS
    assert axes.get_xlabel() == "predicted class" and axes.get_ylabel() == "true class"
    assert [text.get_text() for text in axes.texts][:2] == [str(count) if count else "" for count in counts(20)[0][:2]]


def test_names_that_no_font_can_write_stand_as_numbers(monkeypatch):
    names = ["good", "好评", "\U000f0000"]
    written = figures._written(names)
    assert written[0] == "good" and written[2] == "class 2"
    assert written[1] == ("好评" if len(figures._fonts()) > 1 else "class 1")
    monkeypatch.setattr(figures, "_fonts", lambda: ("DejaVu Sans",))
    assert figures._written(names) == ["good", "class 1", "class 2"]


@pytest.mark.slow
def test_a_thousand_classes_stay_small(tmp_path):
    names = [f"=class {number}" for number in range(1_000)]
    draw = np.random.default_rng(0)
    labels = np.append(draw.integers(0, 1_000, 5_000), [7] * 300)  # of which one is often mistaken for another
    predictions = np.where(draw.random(5_300) < 0.8, labels, draw.integers(0, 1_000, 5_300))
    predictions[-250:] = 11
    rows = Dataset.from_dict({"text": ["x"] * 5_300, "label": labels, "example_id": range(5_300)})
    rows = rows.cast_column("label", ClassLabel(names=names))
    eye = np.eye(1_000, dtype=np.float32)
    answers = SimpleNamespace(probabilities=lambda texts, progress: eye[predictions], thresholds=None)
    scores = score_reported(answers, rows, run_dir=str(tmp_path))
    assert (
        not {"test_per_class", "test_confusion_matrix"} & {*scores}
        and len(describe_scores(scores | {"reported_split": "test"})) < 200
    )
    counts = pd.read_csv(tmp_path / "report" / "confusion.csv", index_col=0)
    assert counts.shape == (1_000, 1_000) and counts.to_numpy().sum() == 5_300
    assert counts.loc["'=class 7", "'=class 11"] >= 250  # no formula for a spreadsheet
    classes = pd.read_csv(tmp_path / "report" / "classes.csv", index_col=0)
    assert list(classes.columns) == ["precision", "recall", "f1", "rows"] and classes["rows"].sum() == 5_300
    table = pd.read_parquet(tmp_path / "report" / "predictions.parquet")
    shares = {split: dict.fromkeys(names, 0.001) for split in SPLITS}
    facts = all_facts("binary")
    facts["task"] |= {"labels": names, "label_shares": shares}
    facts |= {"scores": facts["scores"] | scores, "confusions": confused_pairs(table)}
    facts["baselines"] = facts["baselines"][:1]
    for key in ("test_per_class", "test_confusion_matrix"):
        del facts["scores"][key]
    facts["model"]["contract"]["thresholds"] = [0.5] * 1_000
    figures.draw_confusion(confusion_matrix(labels, predictions), names, tmp_path / "report" / "confusion.png")
    page = write_page(facts, tmp_path / "report")
    write_metrics(facts, run_dir=str(tmp_path))
    card = write_card(facts, str(tmp_path))
    assert (tmp_path / "report" / "metrics.json").stat().st_size < 2e6
    assert page.stat().st_size < 2e6 and card.stat().st_size < 50_000
    shown = Page(page.read_text(encoding="utf-8"))
    assert (
        "the files classes.csv and confusion.csv beside this page have them all" in shown.text
        and len(shown.rows) < 250
    )


def test_the_figure_of_many_classes_has_the_most_confused_ones(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: saved.append(self))
    matrix = 9 * np.eye(60, dtype=int)
    matrix[50, 3] = matrix[41, 3] = 5
    figures.draw_confusion(matrix, [f"c{number}" for number in range(60)], tmp_path / "x.png")
    axes = saved[0].axes[0]
    written = [text.get_text() for text in axes.get_yticklabels()]
    assert len(written) == 30 and {"c3", "c41", "c50"} <= {*written}
    assert axes.get_xlabel() == "predicted class (the 30 most confused of 60)"


def test_a_reliability_shows_the_whole_axis_and_long_tails_a_logarithmic_one(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: saved.append(self))
    figures.draw_reliability(bins()[-2:], tmp_path / "x.png", classes=2)
    assert saved[-1].axes[0].get_xlim() == (0.5, 1)
    for values, scale in (([20] * 50 + [161], "log"), ([20] * 50 + [159], "linear")):
        figures.draw_lengths({"train": values}, 128, tmp_path / "x.png")
        assert saved[-1].axes[0].get_xscale() == scale


def test_a_page_says_who_answered_the_rows_and_what_was_before(tmp_path):
    facts = task_facts("binary")
    write_page(facts, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "the encoder with an untrained head" in page and "is chosen by the selection rows" in page
    chosen = {"chosen": {"by": None, "made": 90, "linear": True}}
    write_page(facts | chosen | {"task": facts["task"] | {"reported_split": "folds"}}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "a linear model as its head" in page and "is chosen by the selection rows" not in page
    assert "that of models of other folds, each for the rows that it did not see" in page
    write_page(facts | {"chosen": chosen["chosen"] | {"made": 0}}, tmp_path)
    assert "Before: " not in (tmp_path / "report.html").read_text()
