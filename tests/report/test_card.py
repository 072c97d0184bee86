"""The model card: its metadata, its numbers, its snippets, and what must not stand in it."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import TINY
from facts import FACTS, changed
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from bertcls import BertClsForSequenceClassification, TextClassifier
from bertcls.export.stock import export_stock
from bertcls.hub import with_repo_id
from bertcls.layout import CARD, DRAWN
from bertcls.report.card import _score_rows, write_card

TOKEN = "hf_dummytoken"


def card_of(facts: dict, folder: Path, **options) -> ModelCard:
    path = write_card(facts, str(folder), **options)
    assert path == folder / CARD
    return ModelCard.load(path)


def rows_of(card: ModelCard) -> list[list[str]]:
    """The rows of all tables."""
    lines = [line for line in card.text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def snippets_of(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


def test_the_metadata_is_what_the_hub_reads(tmp_path):
    (tmp_path / "model").mkdir()
    data = card_of(FACTS, tmp_path / "model", language="en", license="apache-2.0").data
    written = data.to_dict()
    assert [written[name] for name in ("library_name", "pipeline_tag", "language", "license")] == [
        "transformers",
        "text-classification",
        "en",
        "apache-2.0",
    ]
    assert (data.base_model, data.datasets) == ("google-bert/bert-base-uncased", ["stanfordnlp/sst2"])
    assert data.tags == ["bertcls", "single-label-classification"] and data.model_name == "model"
    found = {(result.metric_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {("accuracy", "accuracy"): 0.8610091743119266, ("F1 macro", "f1"): 0.8609}
    for result in data.eval_results:
        assert (result.dataset_type, result.dataset_split) == ("stanfordnlp/sst2", "validation")
        assert result.dataset_revision == "8d51e7e4887a4caaa95b3f" and result.dataset_config == "default"


def test_the_numbers_are_those_of_the_facts(tmp_path):
    card = card_of(FACTS, tmp_path)
    rows, text = rows_of(card), card.text
    assert ["reported", "accuracy", "0.861", "0.836 to 0.882"] in rows  # of 872 rows
    assert ["selection", "accuracy", "0.907", ""] in rows
    assert ["selection, before training", "accuracy", "0.493", ""] in rows
    assert ["TF-IDF", "0.801", "0.773 to 0.826", "0.0001", "better"] in rows
    assert ["label", "train", "selection", "validation"] in rows  # as the source calls the reported rows
    assert ["negative", "44.0%", "45.0%", "49.1%"] in rows
    assert ["negative", "360", "68"] in rows and ["positive", "53", "391"] in rows
    assert ["negation: with negation", "212", "0.731", "0.668 to 0.786", "worse"] in rows
    assert ["0.9317", "50.0%", "0.954", "0.930 to 0.970"] in rows
    assert ["learning_rate", "5e-05"] in rows and ["max_length", "32"] in rows
    for part in (
        FACTS["headline"],
        "(109,483,778 parameters) on stanfordnlp/sst2.",
        "stanfordnlp/sst2, configuration default, revision 8d51e7e4887a4caaa95b3f.",
        "Rows: train 8,000, selection 1,000, validation 872. The reported rows are called validation in the data.",
        "rows        8,000   872\n",
        "temperature 1.37",
        "0.061 before, 0.022 after.",
        "hardware: NVIDIA H200, processes: 2, CPU threads of each: 8, bf16\n",
        "time: 4.2 minutes in all, 3.6 minutes of them training (111.26 texts a second)\n",
        "memory at the peak: 1.25 GiB, of the accelerator 3.5 GiB\n",
        "versions: python 3.11.7, torch 2.13.0\n",
        "seed: 42, recipe at commit a278789\n",
        "- cleaning: strip_tags; apply bertcls.clean to a text first\n",
    ):
        assert part in text, part
    assert "None" not in text and not re.search(r"\n{4}", text)


LIMITS = {
    "It was trained on 8,000 rows and tested on 872 rows of stanfordnlp/sst2.": {},
    "872 rows leave its accuracy on rows of this kind between 0.836 and 0.882 (95 % interval).": {},
    "Its probabilities are calibrated on held-out rows of this data alone": {},
    "Its probabilities are not calibrated": {"calibration": None},
    "On these rows it is worse than TF-IDF.": {
        "baselines": [FACTS["baselines"][0], FACTS["baselines"][1] | {"outcome": "worse"}]
    },
    "These rows cannot tell it from always positive and TF-IDF.": {
        "baselines": [row | {"outcome": "cannot tell"} for row in FACTS["baselines"]]
    },
    "It was not compared with a simple model.": {"baselines": []},
    "It was trained on 8,000 rows and models of other folds, trained alike, were tested on the same 872 rows": {
        "task__reported_split": "folds"
    },
    "Labels with few tested rows, whose own scores say little: positive (10).": {
        "task__label_shares": {"test": {"negative": 0.9885, "positive": 0.0115}}
    },
    "Its accuracy is worse on some groups of rows than on the others: negation, with negation: 0.731 of 212.": {},
    "A text longer than 32 tokens is read in windows; no part that spans two is seen as a whole.": {},
    "A text longer than 64 tokens is cut (tail): the rest is not read.": {
        "model__contract": {"max_length": 64, "truncation": "tail"}
    },
    "A pair longer than 64 tokens is cut (only_second): the rest is not read.": {
        "model__contract": {"max_length": 64, "pair_truncation": "only_second"}
    },
    "A pair longer than 64 tokens is read in windows, each behind its first text, which is cut to half of one": {
        "model__contract": {"max_length": 64, "pair_truncation": "none", "window_pooling": "max"}
    },
    "The audit found texts of one split in another (see Data)": {},
    "Its data was not looked through for duplicates": {"audit": None},
    "What google-bert/bert-base-uncased learnt from its own texts, prejudice included": {},
    "Its encoder was not pretrained": {"arguments__from_scratch": True},
}


@pytest.mark.parametrize("sentence", LIMITS)
def test_limits_are_made_from_the_facts(sentence, tmp_path):
    limits = card_of(changed(**LIMITS[sentence]), tmp_path).text.split("## Limits")[1]
    assert f"- {sentence}" in limits
    if LIMITS[sentence]:
        assert sentence not in card_of(FACTS, tmp_path).text


def test_a_leak_that_was_mended_is_no_limit(tmp_path):
    lines = [*FACTS["audit"]["lines"], "TAKEN OUT: 3 leaking rows (--on_leak drop); all above is from before"]
    card = card_of(changed(audit={"lines": lines, "leaked": False}), tmp_path)
    assert "The audit found texts of one split in another" not in card.text and "TAKEN OUT: 3" in card.text


def test_rows_that_the_run_drew_are_no_split_of_the_data(tmp_path):
    assert card_of(FACTS, tmp_path).data.eval_results[0].dataset_split == "validation"
    card = card_of(changed(task__reported_split=DRAWN), tmp_path)
    assert card.data.eval_results[0].dataset_split is None
    assert "The reported rows were drawn by the run" in card.text and "are called" not in card.text


def test_a_model_from_scratch_has_no_base_model(tmp_path):
    card = card_of(changed(arguments__from_scratch=True), tmp_path)
    assert card.data.base_model is None and "It has the architecture of google-bert/bert-base-uncased" in card.text


def test_what_is_missing_is_left_out(tmp_path):
    facts = {name: FACTS[name] for name in ("headline", "scores", "task")}
    card = card_of(facts, tmp_path)
    titles = re.findall(r"^## (.*)", card.text, re.MULTILINE)
    assert titles == ["Use", "Data", "Scores", "Limits"]
    assert "None" not in card.content and "Undefined" not in card.content
    assert card.data.language is None and card.data.base_model is None and card.data.datasets is None
    assert "truncation=True, return_tensors" in card.text
    card_of(facts | {"run": {"device": "cpu"}, "source": {}, "model": {}, "arguments": {}}, tmp_path)


def test_other_tasks_have_their_own_scores(tmp_path):
    scores = {"test_pearson": 0.81, "test_pearson_low": 0.7, "test_pearson_high": 0.9, "test_rmse": 2.5}
    task = {"problem_type": "regression", "labels": ["value"], "rows": {"test": 100}, "label_shares": {"test": {}}}
    card = card_of({"headline": "", "scores": scores | {"test_samples": 100}, "task": task}, tmp_path)
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"pearsonr": 0.81, "rmse": 2.5}
    row = {"name": "TF-IDF", "score": 3.5, "low": None, "high": None, "p_value": 0.25, "outcome": "cannot tell"}
    slices = [{"slice": "words", "group": "2", "rows": 9, "score": 4.5, "low": 4.0, "high": 5.0, "outcome": "worse"}]
    facts = {"headline": "", "scores": scores | {"test_mae": 1.5}, "task": task, "measure": "mean absolute error"}
    card = card_of(
        facts | {"scores": facts["scores"] | {"test_samples": 100}, "baselines": [row], "slices": slices}, tmp_path
    )
    rows = rows_of(card)
    assert ["reported", "mean absolute error", "1.50", ""] in rows
    assert ["TF-IDF", "3.50", "", "0.25", "cannot tell"] in rows
    assert ["model", "error", "interval", "p", "this model is"] in rows
    assert "Mean absolute error by groups of reported rows; better or worse than the others by Welch's" in card.text
    assert (
        "Its mean absolute error is worse on some groups of rows than on the others: words, 2: 4.50 of 9." in card.text
    )
    assert ["reported", "Pearson correlation", "0.81", "0.70 to 0.90"] in rows
    assert "100 rows leave its Pearson correlation on rows of this kind between 0.70 and 0.90" in card.text
    assert "gives a text a number" in card.text and "| label |" not in card.text and "calibrated" not in card.text
    scores = {"test_accuracy": 0.5, "test_accuracy_low": 0.4, "test_accuracy_high": 0.6, "test_f1_micro": 0.7}
    task = {"problem_type": "multi_label_classification", "labels": ["a", "b"], "label_shares": {}}
    card = card_of({"headline": "", "scores": scores, "task": task}, tmp_path)
    assert {r.metric_name: r.metric_value for r in card.data.eval_results} == {
        "share of texts with exactly the right labels": 0.5,
        "F1 micro": 0.7,
    }
    assert card.data.tags == ["bertcls", "multi-label-classification"]
    calibration = {"temperature": 1.5, "ece_before": 0.1, "ece": 0.05, "bins": []}
    card = card_of({"headline": "", "scores": scores, "task": task, "calibration": calibration}, tmp_path)
    assert "reported rows (of every decision on a label): 0.1000 before, 0.0500 after." in card.text  # of unknown rows


def test_there_is_no_local_path_no_token_and_no_text_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    for folder in (run, tmp_path / "owner" / "encoder", tmp_path / "my data" / "reviews"):
        folder.mkdir(parents=True)
    facts = changed(
        headline=f"Made in {run} by {Path.home()}/me/run.py with {TOKEN} and a-token-of-another-form.",
        source={
            "dataset": str(tmp_path / "my data" / "reviews"),
            "config": None,
            "revision": None,
            "files": ["/data/someone/train.csv", "C:\\Users\\someone\\test file.csv", "~/mine/dev.csv"],
        },
        model__encoder="owner/encoder",  # looks like one of the Hub, and lies here
        arguments={
            "train_file": f"{tmp_path}/my data/train.csv",
            "validation_file": "../someone/validation.csv",
            "resume_from_checkpoint": f"{run}/checkpoints/checkpoint-5",
            "hub_token": "hf_dummytoken",
            "deepspeed": "/home/someone/zero.json",
            "report_to": ["/home/someone/a", "none"],
        },
        run__command=["/home/someone/recipe.py", "--hub_token", TOKEN],
        run__device=f"cpu {TOKEN}",
        audit={"lines": ["read /home/someone/data/train.csv and http://example.org/a/b"]},
    )
    card = card_of(facts, run)
    for secret in (TOKEN, "a-token-of", str(tmp_path), "someone", "my data", str(Path.home()) + "/", "/me/", "Users"):
        assert secret not in card.content, secret
    assert "A TEXT OF THE DATA" not in card.content and "A PROBE" not in card.content
    assert card.data.base_model is None and card.data.datasets is None
    assert "reviews, with train.csv, test file.csv, dev.csv." in card.text and "fine-tuned from encoder (" in card.text
    assert r"Made in mine by run.py with \*\*\* and \*\*\*." in card.text
    assert ["resume_from_checkpoint", "checkpoint-5"] in rows_of(card) and ["report_to", "a, none"] in rows_of(card)
    assert "read train.csv and http://example.org/a/b" in card.text


def test_a_name_of_the_hub_is_told_from_a_local_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    for encoder, dataset, expected in (
        ("bert-base-uncased", "20newsgroups", ("bert-base-uncased", None)),
        ("local", "a/b/c", (None, None)),
        (str(TINY), "mine/reviews.csv", (None, None)),
        ("owner/model", "owner/data", ("owner/model", ["owner/data"])),
    ):
        data = card_of(changed(model__encoder=encoder, source__dataset=dataset), tmp_path).data
        assert (data.base_model, data.datasets) == expected, (encoder, dataset)


def test_labels_cannot_break_a_table(tmp_path):
    shares = {"test": {"a|b\n<script>": 0.5, "```": 0.5}}
    facts = changed(task__labels=list(shares["test"]), task__label_shares=shares)
    assert ["a\\|b &lt;script&gt;", "50.0%"] in rows_of(card_of(facts, tmp_path))
    many = [f"label {number}" for number in range(150)]
    facts = changed(task__labels=many, task__label_shares={"test": dict.fromkeys(many, 1 / 150)})
    text = card_of(facts, tmp_path).text
    assert "| label 49 |" in text and "| label 50 |" not in text and "And 100 more labels." in text
    assert "label 9 (6) and 140 more." in text and "prediction (across)" not in text


SETTINGS = {
    "single_label_classification": {"temperature": 1.7},
    "multi_label_classification": {"thresholds": [0.4, 0.6]},
    "regression": {"id2label": {0: "value"}, "label_mean": 3.0, "label_scale": 2.0},
    "pairs": {"pair_truncation": "longest_first"},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_snippets_run_and_agree(case, tmp_path, monkeypatch, capsys, encoder_folder):
    kind = "single_label_classification" if case == "pairs" else case
    run = tmp_path / f"run-{case}"
    settings = {"id2label": {0: "negative", 1: "positive"}, "problem_type": kind, "max_length": 32} | SETTINGS[case]
    torch.manual_seed(0)
    BertClsForSequenceClassification.from_encoder(encoder_folder, **settings).save_pretrained(run)
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(run)
    text = ("A text.", "Another text.") if case == "pairs" else "A text."
    facts = changed(
        task__problem_type=kind,
        task__labels=list(settings["id2label"].values()),
        model__contract={"max_length": 32, "pair_truncation": settings.get("pair_truncation")},
        stock=export_stock(str(run), str(run / "stock"), [text]),
    )
    snippets = snippets_of(card_of(facts, run))
    assert len(snippets) == 3 - (case == "regression")
    monkeypatch.chdir(tmp_path)  # where the folder's name is a path to it
    printed = []
    for snippet in snippets:
        capsys.readouterr()
        exec(compile(snippet, CARD, "exec"), {})
        printed.append(capsys.readouterr().out.strip())
    expected = TextClassifier.from_pretrained(str(run)).predict(text)[0]
    assert printed[0] == str([expected])
    if case == "regression":
        assert float(printed[1]) == pytest.approx(expected.label, abs=1e-5)
        return
    assert ast.literal_eval(printed[1]) == pytest.approx(expected.probabilities, abs=1e-4)
    answers = ast.literal_eval(printed[2])
    answers = answers if isinstance(answers, list) else [answers]  # of a pair one
    for answer in answers:
        assert answer["score"] == pytest.approx(expected.probabilities[answer["label"]], abs=1e-5)
    assert kind == "multi_label_classification" or answers[0]["label"] == expected.label
    assert kind != "multi_label_classification" or len(answers) == 2


def test_another_repository_changes_the_title_and_the_snippets_alone(tmp_path):
    run = tmp_path / "stock"  # a folder that is called like another word of the card
    run.mkdir()
    old = write_card(FACTS, str(run)).read_text()
    new = with_repo_id(old, "someone/model")
    assert "\n# model\n" in new and 'model_kwargs={"subfolder": "stock"}' in new
    assert len(re.findall('"someone/model"', new)) == 4 and '"stock"' not in new.replace('"subfolder": "stock"', "")
    assert new.replace("someone/model", "stock").replace("\n# model\n", "\n# stock\n") == old
    assert with_repo_id("A card by hand.", "someone/model") == "A card by hand."


def test_the_facts_of_a_report_make_a_card(tmp_path):
    facts = json.loads(json.dumps(FACTS))  # as metrics.json holds them
    assert write_card(facts, str(tmp_path)).read_text() == write_card(FACTS, str(tmp_path)).read_text()
    assert [path.name for path in tmp_path.iterdir()] == [CARD]


HOSTILE = ["<img src=x onerror=alert(1)>", "[click](https://evil.example)", "![x](//y)", "**b** _i_ `c` ~~d~~", "$x$"]
HOSTILE += ["two\n\n# lines", "www.evil.example", "https://evil.example/a?b=c&lt;", "a|b", "\\"]


def test_prose_shows_labels_and_files_as_they_are(tmp_path):
    """Rendered by a reader of Markdown, no label or file name makes a tag, a link, an emphasis, a code or a block."""
    names = " and ".join(HOSTILE)
    facts = changed(
        headline=f"The encoder (0.86) is better than always answering {names} (0.5).",
        source={"dataset": None, "files": [f"{name}.csv" for name in ("1. list", "# head", "_x_", *HOSTILE[3:5])]},
        model__encoder="<b>encoder</b>",
        scores__test_confusion_matrix=None,
        task__labels=HOSTILE,
        task__label_shares={"test": dict.fromkeys(HOSTILE, 0.1)},
        baselines=[row | {"name": names, "outcome": "worse"} for row in FACTS["baselines"]],
        slices=[FACTS["slices"][0] | {"slice": HOSTILE[0], "group": HOSTILE[1]}],
    )
    card = card_of(facts, tmp_path)
    prose = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    assert not re.search(r"<(?!/?span)[a-zA-Z]", prose) and "](" not in prose.replace("\\](", "")
    assert "://" not in prose and not re.search(r"(?i)\bwww\.", prose)
    assert "\\*\\*b\\*\\* \\_i\\_ \\`c\\` \\~\\~d\\~\\~" in prose and "&lt;img src=x" in prose
    titles = re.findall(r"^#+ .*", prose, re.MULTILINE)
    assert "# head" not in titles and "# lines" not in titles and len(titles) == 8
    assert {len(row) for row in rows_of(card) if row[0] == "a\\|b"} == {2}
    for word in ("learning_rate", "stanfordnlp/sst2"):  # what needs no mark has none
        assert word in card_of(FACTS, tmp_path).text


@pytest.mark.parametrize(
    "language, text", [("zh", "一段文本。"), ("zh-Hant", "一段文本。"), ("de", "Ein Text."), ("tlh", "A text.")]
)
def test_the_snippets_speak_the_language_of_the_data(language, text, tmp_path):
    card = card_of(FACTS, tmp_path, language=language)
    assert card.text.count(f'"{text}"') == 3 and "film" not in card.text.lower()
    pairs = card_of(changed(model__contract={"pair_truncation": "none", "max_length": 32}), tmp_path, language="zh")
    assert pairs.text.count('"一段文本。", "另一段文本。"') == 2
    assert '{"text": "一段文本。", "text_pair": "另一段文本。"}' in pairs.text


def test_own_metrics_stand_in_the_card(tmp_path):
    card = card_of(changed(scores__test_mcc=0.72345, scores__eval_mcc=0.8, scores__test_kappa_low=0.5), tmp_path)
    assert ["reported", "mcc", "0.723", ""] in rows_of(card) and ["selection", "mcc", "0.800", ""] in rows_of(card)
    assert ["reported", "kappa low", "0.500", ""] in rows_of(card)
    assert {"mcc", "kappa low", "accuracy"} <= {result.metric_name for result in card.data.eval_results}


def test_an_interval_of_one_row_is_none():
    facts = {"names": {"mae": "MAE"}, "chosen": {}, "task": {"rows": {}}}
    facts["scores"] = {"test_samples": 1, "test_mae": 0.5, "test_mae_low": None, "test_mae_high": None}
    assert [row[2:] for row in _score_rows(facts)] == [("0.500", "")]
