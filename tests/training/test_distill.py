import functools
import json
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SAMPLE, TINY, load_recipe
from datasets import ClassLabel, Dataset, DatasetDict, List, Value
from equality import distilled_step, make_taught_rows
from helpers import FILES, build, save_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax
from transformers import AutoModel, BertConfig, BertForSequenceClassification, TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from bertcls import BertClsForSequenceClassification, TextClassifier, load_splits
from bertcls.layout import PREDICTIONS, RESULTS
from bertcls.process import one_line_errors
from bertcls.training.distill import DistillationLoss, Targets, take_layers
from bertcls.training.launch import parse
from bertcls.training.teacher import ANSWERS, VECTOR, load_teacher, teach

LABELS = {0: "bad", 1: "good"}


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("distill")


@pytest.fixture(autouse=True)
def the_signal_as_it_was():
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


@pytest.fixture(scope="module")
def teacher_folder(encoder_folder, tmp_path_factory) -> str:
    """Reads in windows of 32 tokens, and has the labels in another order than the data."""
    return save_model(encoder_folder, tmp_path_factory.mktemp("teacher"), id2label={0: "good", 1: "bad"})


def rows_of(labels=("bad", "good"), *, feature=None, pairs=False, long=False, count=48) -> DatasetDict:
    """Splits of texts that differ, each with a label in turn."""
    texts = [f"a {'good' if row % 2 else 'dull'} film of {row} hours " * (9 if long else 1) for row in range(count)]
    columns = {"text": texts, "label": [labels[row % len(labels)] for row in range(count)]}
    columns |= {"text_pair": [text[::-1] for text in texts]} if pairs else {}
    rows = Dataset.from_dict(columns)
    if feature is None:
        feature = ClassLabel(names=["bad", "good"])
    rows = rows.cast_column("label", feature).add_column("example_id", list(range(count)))
    third = count // 3
    return DatasetDict(
        {
            name: rows.select(range(place * third, (place + 1) * third))
            for place, name in enumerate(("train", "validation", "test"))
        }
    )


# ------------------------------------------------------------------------------------------------ targets and loss


@settings(deadline=None, max_examples=200)
@given(
    own=st.integers(1, 5),
    answers=st.integers(1, 5),
    vectors=st.integers(0, 3),
    rows=st.integers(1, 3000),
    data=st.data(),
)
def test_one_count_tells_both(own, answers, vectors, rows, data):
    targets = Targets(own, answers, vectors, rows)
    taught = data.draw(st.integers(1, rows))
    labelled = data.draw(st.integers(0, taught))
    items = taught * (targets.width - 1) + labelled
    for count in (items, torch.tensor(items), torch.tensor(float(items), dtype=torch.float64)):
        assert [int(number) for number in targets.counts(count)] == [taught, labelled]
    found, _ = targets.counts(torch.tensor(float(items)))  # as Trainer may round it
    assert int(found) == taught


def test_what_is_packed_comes_out_and_is_counted_once():
    targets = Targets(own=2, answers=2, vectors=1, rows=4)
    own, labelled = torch.tensor([[0.0, 1.0], [-100.0, 0.0], [1.0, 1.0]]), torch.tensor([True, False, True])
    answers, vectors = torch.tensor([[-100.0, 3.0], [0.5, 2.0], [1.0, -1.0]]), torch.tensor([[9.0], [-100.0], [2.0]])
    packed = targets.pack(own, labelled, answers, vectors)
    assert packed.shape == (3, targets.width)
    found = targets.unpack(packed)
    assert torch.equal(found[1], labelled)
    for one, other in zip((own, answers, vectors), (found[0], *found[2:])):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    assert [int(count) for count in targets.counts(packed.ne(-100).sum())] == [3, 2]  # whatever a value is


def test_the_loss_is_that_of_hinton_each_term_over_its_own_rows():
    model, targets = build(num_labels=3, class_weights=[1.0, 2.0, 0.5]), Targets(1, 3, 0, rows=4)
    logits, answers = np.random.default_rng(0).normal(size=(2, 4, 3)) * 3
    own, labelled = np.array([2, 0, 1, 0]), np.array([True, False, True, False])
    packed = targets.pack(*map(torch.tensor, (own[:, None].astype("f4"), labelled, answers.astype("f4"))))
    loss = DistillationLoss(model, targets, temperature=3.0, alpha=0.25)
    outputs = SequenceClassifierOutput(logits=torch.tensor(logits.astype("f4")))
    soft = softmax(answers / 3, -1)
    off = (soft * (log_softmax(answers / 3, -1) - log_softmax(logits / 3, -1))).sum(-1)
    hard = -log_softmax(logits, -1)[[0, 2], [2, 1]] * [0.5, 2.0]
    assert float(loss(outputs, packed)) == pytest.approx(0.75 * 9 * off.mean() + 0.25 * hard.mean(), rel=1e-4)
    same = SequenceClassifierOutput(logits=torch.tensor(answers.astype("f4")))
    assert float(DistillationLoss(model, targets, alpha=0.0)(same, packed)) == pytest.approx(0, abs=1e-5)
    plain = torch.tensor([2, 0, 1, 0])  # of validation
    assert float(loss(outputs, plain)) == pytest.approx(float(model._loss(outputs.logits, plain, None)))


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_several_labels_and_numbers_have_losses_of_their_own(kind):
    several = kind == "multi_label_classification"
    options = {} if several else {"label_mean": 300.0, "label_scale": 50.0}
    model = build(num_labels=2 if several else 1, problem_type=kind, **options)
    targets = Targets(2 if several else 1, 2 if several else 1, 0, rows=3)
    logits, answers = np.random.default_rng(1).normal(size=(2, 3, targets.own))
    own = np.random.default_rng(2).integers(0, 2, (3, targets.own))
    if not several:
        logits, answers, own = (300 + 50 * values for values in (logits, answers, own))
    labelled = np.array([True, False, True])
    packed = targets.pack(*map(torch.tensor, (own.astype("f4"), labelled, answers.astype("f4"))))
    loss = DistillationLoss(model, targets, temperature=2.0, alpha=0.5)
    found = float(loss(SequenceClassifierOutput(logits=torch.tensor(logits.astype("f4"))), packed))
    if several:
        entropy = lambda truth, values: np.logaddexp(0, values) - truth * values  # noqa: E731
        soft = 1 / (1 + np.exp(-answers / 2))
        off = 4 * (entropy(soft, logits / 2) - entropy(soft, answers / 2)).mean()
        hard = entropy(own, logits)[labelled].mean()
    else:
        off, hard = np.square((logits - answers) / 50).mean(), np.square((logits - own) / 50)[labelled].mean()
    assert found == pytest.approx(0.5 * off + 0.5 * hard, rel=1e-4)


def test_vectors_are_matched_through_a_projection_that_is_dropped():
    model = build(num_labels=2)
    parameters = sum(weight.numel() for weight in model.parameters())
    outputs = SequenceClassifierOutput(logits=torch.zeros(2, 2))
    outputs["vectors"] = torch.randn(2, 32)
    for width in (32, 48):
        targets = Targets(1, 2, width, rows=2)
        packed = targets.pack(torch.zeros(2, 1), torch.tensor([True, True]), torch.zeros(2, 2), torch.randn(2, width))
        for how in ("mse", "cosine"):
            loss = DistillationLoss(model, targets, alpha=0.0, match_vectors=how)
            assert hasattr(model, "projection") == (width == 48)
            found = outputs["vectors"] if width == 32 else model.projection(outputs["vectors"])
            vectors = packed[:, 3 : 3 + width]
            off = (
                (found - vectors).square().mean()
                if how == "mse"
                else 1 - torch.cosine_similarity(found, vectors).mean()
            )
            assert loss(outputs, packed).item() == pytest.approx(off.item(), rel=1e-5)
            loss.drop_projection()
            assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.slow
def test_micro_batches_give_the_same_step(tmp_path):
    whole = distilled_step(str(tmp_path / "16x1"), 16, 1)
    assert whole["update"].abs().max() > 1e-3
    for batch, steps in ((4, 4), (2, 8)):  # in which the labelled rows are unevenly shared
        other = distilled_step(str(tmp_path / f"{batch}x{steps}"), batch, steps)
        assert other["loss"] == pytest.approx(whole["loss"], abs=1e-5)
        torch.testing.assert_close(other["update"], whole["update"], atol=1e-5, rtol=0)
    labels = make_taught_rows(16)["label"][:]
    assert [4 - labels[start : start + 4].count(None) for start in (0, 4, 8, 12)] == [1, 1, 1, 4]


# ------------------------------------------------------------------------------------------------ the teacher


def test_a_teacher_answers_by_the_names_of_labels_and_reads_all_windows(teacher_folder):
    splits = rows_of(long=True)
    teacher = load_teacher(teacher_folder, splits["train"])
    assert teacher.columns == [1, 0]
    taught = teach(splits, None, teacher, match_vectors="mse")
    texts = splits["train"]["text"][:]
    classifier = TextClassifier.from_pretrained(teacher_folder)
    assert len(classifier.encode(texts[:1])[0].columns["input_ids"]) > 1
    np.testing.assert_allclose(taught["train"][ANSWERS][:], classifier.logits(texts)[:, ::-1], atol=1e-5)
    vectors = [classifier.window_vectors(classifier.encode([text])[0]).mean(0).numpy() for text in texts]
    np.testing.assert_allclose(taught["train"][VECTOR][:], vectors, atol=1e-5)
    assert set(taught) == {"train", "validation"} and ANSWERS not in taught["validation"].column_names
    table = teacher.answer_table(splits["test"])
    probabilities = classifier.probabilities(splits["test"]["text"][:])
    np.testing.assert_allclose(table["probability_good"], probabilities[:, 0], atol=1e-6)


def test_texts_without_a_label_are_taught_but_for_those_held_out(teacher_folder, tmp_path):
    rows = pd.DataFrame({"text": [f"text {row}" for row in range(30)], "label": ["bad", "good", None] * 10})
    rows.to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "more.txt").write_text("another text\nof the TEST  split\n")
    splits = load_splits(train_file=str(tmp_path / "train.csv"), keep_unlabelled=True)
    unlabelled = splits.pop("unlabelled")
    assert unlabelled["text"][:] == [f"text {row}" for row in range(2, 30, 3)] and len(splits["train"]) == 20
    assert unlabelled["example_id"][:] == list(range(2, 30, 3))
    splits["test"] = splits["train"].select([0]).map(lambda row: {"text": "Of the test split"})
    teacher = load_teacher(teacher_folder, splits["train"])
    taught = teach(splits, unlabelled, teacher, unlabelled_file=str(tmp_path / "more.txt"), text_column="body")[
        "train"
    ]
    assert taught["text"][20:] == [*unlabelled["text"][:], "another text"]
    assert taught["label"][:].count(None) == 11 and taught["label"][:20] == splits["train"]["label"][:]
    assert len({*taught["example_id"]}) == 31 and len(taught[ANSWERS][30]) == 2
    with pytest.raises(ValueError, match="Found 10 rows without a text or label"):
        load_splits(train_file=str(tmp_path / "train.csv"))


def test_the_answers_are_kept_until_weights_contract_or_rows_change(
    teacher_folder, encoder_folder, tmp_path, monkeypatch
):
    rows = pd.DataFrame({"text": [f"text {row}" for row in range(30)], "label": ["bad", "good"] * 15})
    rows.to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "more.txt").write_text("another text\n")
    splits = load_splits(train_file=str(tmp_path / "train.csv"))
    asked, kept = [], TextClassifier.logits_and_vectors
    counted = lambda *args, **more: asked.append(1) or kept(*args, **more)  # noqa: E731
    monkeypatch.setattr(TextClassifier, "logits_and_vectors", counted)
    shutil.copytree(teacher_folder, tmp_path / "teacher")

    def ask() -> int:
        before = len(asked)
        teacher = load_teacher(str(tmp_path / "teacher"), splits["train"])
        teach(splits, None, teacher, unlabelled_file=str(tmp_path / "more.txt"))
        return len(asked) - before

    assert [ask(), ask()] == [1, 0]
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    (tmp_path / "teacher" / "config.json").write_text(json.dumps(config | {"max_length": 16, "overlap": 2}))
    assert [ask(), ask()] == [1, 0]
    model = BertClsForSequenceClassification.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        model.classifier.bias[0] += 1e-3
    model.save_pretrained(tmp_path / "teacher")
    assert [ask(), ask()] == [1, 0]
    (tmp_path / "more.txt").write_text("yet another text\n")
    assert [ask(), ask()] == [1, 0]


def test_a_stock_classifier_teaches(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(TINY, id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    splits = rows_of()
    teacher = load_teacher(str(tmp_path), splits["train"])
    texts = splits["train"]["text"][:]
    with torch.no_grad():
        expected = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    taught = teach(splits, None, teacher)["train"]
    np.testing.assert_allclose(taught[ANSWERS][:], expected[:, ::-1], atol=1e-5)
    with pytest.raises(ValueError, match="Found --match_vectors mse with the stock classifier"):
        load_teacher(str(tmp_path), splits["train"], match_vectors="mse")
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="Found no weights classifier.bias, .*; expected a trained classifier"):
        load_teacher(str(tmp_path / "encoder"), splits["train"])


def test_a_teacher_that_does_not_fit_is_refused_in_a_line(teacher_folder, encoder_folder, tmp_path):
    rows = rows_of()["train"]
    for options, data, message in (
        (
            {"id2label": {0: "no", 1: "good"}},
            rows,
            "Found the labels no, good of the teacher .*; expected bad, good as",
        ),
        (
            {"problem_type": "multi_label_classification"},
            rows,
            "Found a teacher for multi_label_classification .* and data for single_label_classification",
        ),
        ({"pair_truncation": "none"}, rows, "that reads pairs; expected one for single texts"),
    ):
        folder = save_model(encoder_folder, tmp_path / message[:20].replace(" ", ""), **options)
        with pytest.raises(ValueError, match=message):
            load_teacher(folder, data)
    shutil.copytree(teacher_folder, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match="okenizer"):
        load_teacher(str(tmp_path / "bare"), rows)
    with pytest.raises(FileNotFoundError, match="No model found at 'nowhere'"):
        load_teacher("nowhere", rows)


def test_a_student_of_all_layers_is_its_teacher_and_one_of_some_has_these(teacher_folder, tmp_path):
    rows = rows_of()["train"]
    teacher = load_teacher(teacher_folder, rows)
    whole = BertClsForSequenceClassification.from_encoder(teacher_folder, id2label=LABELS)
    classifier = functools.partial(TextClassifier, tokenizer=teacher.classifier.tokenizer, device="cpu")
    texts = rows["text"][:4]
    expected = teacher.classifier.logits(texts)[:, teacher.columns]
    np.testing.assert_allclose(classifier(take_layers(whole, teacher, [0, 1])).logits(texts), expected, atol=1e-5)
    student = take_layers(whole, teacher, [1])
    own, kept = student.state_dict(), teacher.classifier.model.state_dict()
    name = "encoder.encoder.layer.{}.output.dense.weight"
    assert torch.equal(own[name.format(0)], kept[name.format(1)]) and name.format(1) not in own
    student.save_pretrained(tmp_path)
    loaded = BertClsForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(classifier(loaded).logits(texts), classifier(student).logits(texts))
    for layers in ([2], [1, 0], [0, 0], [-1]):
        with pytest.raises(ValueError, match=r"Found --student_layers .*; expected different ones of 0 to 1"):
            load_teacher(teacher_folder, rows, student_layers=layers)


# ------------------------------------------------------------------------------------------------ the recipe

WRONG = {
    "no teacher": ([], "Found no --teacher; expected a teacher"),
    "no student": (["--teacher", "t"], "Found both or none of --student_layers --model_name_or_path"),
    "two students": (
        ["--teacher", "t", "--student_layers", "0", "--model_name_or_path", "m"],
        "Found both or none of --student_layers --model_name_or_path",
    ),
    "no temperature": (["--teacher", "t", "--student_layers", "0", "--temperature", "0"], "Found --temperature 0 and"),
    "labels alone": (["--teacher", "t", "--student_layers", "0", "--alpha", "1"], "--alpha 1; expected more than 0"),
    "folds": (["--teacher", "t", "--student_layers", "0", "--fold", "1/2", "--phrases", "false"], "Found --fold; "),
    "pooling": (
        ["--teacher", "t", "--student_layers", "0", "--pooling", "cls"],
        "Found --pooling; expected it left out",
    ),
    "head": (
        ["--teacher", "t", "--student_layers", "0", "--head_init", "probe"],
        "Found --head_init; expected it left out",
    ),
    "smoothing": (
        ["--teacher", "t", "--student_layers", "0", "--label_smoothing_factor", "0.1"],
        "Found --label_smoothing_factor; expected it left out",
    ),
    "no teacher of the sample": (
        ["--sample"],
        "that of --sample by: python recipes/sst2_finetune.py --sample --from_scratch --output",
    ),
    "no plain run": (
        ["--teacher", "T", "--student_layers", "0", "--plain_run", "gone"],
        "in --plain_run gone; expected",
    ),
    "no more texts": (
        ["--teacher", "T", "--student_layers", "0", "--unlabelled_file", "gone.csv"],
        "No data set found at 'gone.csv'",
    ),
    "no such layer": (
        ["--teacher", "T", "--student_layers", "7"],
        "Found --student_layers 7; expected different ones",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_distilled_ends_in_one_line(case, recipe, teacher_folder, tmp_path, monkeypatch, capsys):
    words, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    data = [] if "--sample" in words else ["--dataset_name", write_rows(rows_of(), tmp_path / "data")]
    words = [teacher_folder if word == "T" else word for word in [*words, *data]]
    with pytest.raises(SystemExit) as ended, one_line_errors():
        run(recipe, tmp_path / "run", *words)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert ended.value.code == 2 and len(said) == 1 and message in said[0], said
    assert not (tmp_path / "run" / "report").exists()


def run(recipe, folder, *words):
    words = ["--figures", "false", "--cpu_threads", "1", "--output_dir", str(folder), *words]
    args, training_args = parse(recipe.Arguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    return recipe.main(args, training_args)


def write_rows(splits: DatasetDict, folder) -> str:
    folder.mkdir(exist_ok=True)
    for name, split in splits.items():
        split.remove_columns("example_id").to_parquet(folder / f"{name}.parquet")
    return str(folder)


KINDS = {
    "windows": ({}, {"long": True}, []),
    "several labels": (
        {"problem_type": "multi_label_classification"},
        {"labels": ([], [0], [0, 1]), "feature": List(ClassLabel(names=["bad", "good"]))},
        [],
    ),
    "numbers": (
        {"problem_type": "regression", "id2label": {0: "value"}, "label_mean": 30.0, "label_scale": 9.0},
        {"labels": (11.5, 29.5, 40.25), "feature": Value("float32")},
        [],
    ),
    "pairs": ({"pair_truncation": "none"}, {"pairs": True}, ["--text_pair_column", "text_pair"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_comes_near_its_teacher(kind, recipe, encoder_folder, tmp_path):
    options, rows, words = KINDS[kind]
    teacher, data = save_model(encoder_folder, tmp_path / "teacher", **options), rows_of(**rows)
    words = [*words, "--teacher", teacher, "--dataset_name", write_rows(data, tmp_path / "data")]
    words += ["--model_name_or_path", str(TINY), "--from_scratch", "--pooling", "mean", "--max_length", "32"]
    words += ["--num_train_epochs", "16", "--learning_rate", "3e-3", "--per_device_train_batch_size", "4"]
    words += ["--alpha", "0", "--match_vectors", "mse", "--report", "false", "--eval_strategy", "no"]
    run(recipe, tmp_path / "run", *words)
    teacher, student = TextClassifier.from_pretrained(teacher), TextClassifier.from_pretrained(str(tmp_path / "run"))
    texts = data["train"]["text"][:]
    texts = list(zip(texts, data["train"]["text_pair"][:])) if kind == "pairs" else texts
    several, numbers = kind == "several labels", kind == "numbers"
    taught, learnt = (
        values if numbers else expit(values) if several else softmax(values, -1)
        for values in (teacher.logits(texts), student.logits(texts))
    )
    start = np.mean(data["train"]["label"][:]) if numbers else 0.5
    off = np.abs(learnt - taught).mean() / np.abs(start - taught).mean()
    assert off < 0.6, off
    assert len(student.encode(texts[:1])[0].columns["input_ids"]) > (kind == "windows")


SHORT = ["--max_train_samples", "56", "--per_device_train_batch_size", "16", "--num_train_epochs", "3"]


class Stop(TrainerCallback):
    """Ends the run as Ctrl+C does before an epoch, of the student or of the one on the labels alone."""

    def __init__(self, epoch: int, *, alone: bool):
        self.epoch, self.alone = epoch, alone

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch == self.epoch and self.alone == ("plain" in args.output_dir):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def sample_teacher(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("sample") / "teacher"
    sst2 = load_recipe("sst2_finetune")
    words = [
        "--sample",
        "--from_scratch",
        "--figures",
        "false",
        "--num_train_epochs",
        "4",
        "--output_dir",
        str(folder),
    ]
    sst2.main(*parse(sst2.RecipeArguments, words, defaults=sst2.DEFAULTS, sample=sst2.SAMPLE))
    return str(folder)


@pytest.fixture(scope="module")
def distilled(recipe, sample_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    more = tmp_path_factory.mktemp("more") / "more.txt"
    more.write_text("a film that nobody should miss\na dull evening\n" + load_splits(str(SAMPLE))["test"]["text"][0])
    words = ["--sample", "--teacher", sample_teacher, "--unlabelled_file", str(more), *SHORT]
    return folder, words, run(recipe, folder, *words)


@pytest.mark.slow
def test_the_report_begins_with_the_student_beside_teacher_and_labels_alone(distilled, sample_teacher, capsys):
    folder, _, results = distilled
    facts = json.loads((folder / RESULTS).read_text())
    found = facts["distilled"]
    assert facts["headline"].startswith("The student (accuracy 0.") and "its teacher (0." in facts["headline"]
    assert "the same student on the labels alone (0." in facts["headline"] and "texts/s" in facts["headline"]
    assert found["student"]["score"] == results["test_accuracy"]
    of_teacher = json.loads(open(f"{sample_teacher}/{RESULTS}").read())["scores"]["test_accuracy"]
    assert found["teacher"]["score"] == pytest.approx(of_teacher) and found["teacher"]["p_value"] <= 1
    alone = json.loads((folder / "plain" / RESULTS).read_text())
    assert found["labels_alone"]["score"] == alone["scores"]["test_accuracy"] and "distilled" not in alone
    assert found["student"]["parameters"] < found["teacher"]["parameters"]
    assert found["rows"] == 58 and found["unlabelled"] == 2  # one stands in test
    card = (folder / "README.md").read_text()
    assert "It was taught by teacher: it learnt to answer as that model does, on 58 texts, 2 of them without" in card
    assert "It began as layers of that model (0)." in card
    assert sample_teacher not in card and "labels alone" in card
    assert {path.name for path in folder.iterdir()} >= FILES | {"plain"}
    assert TextClassifier.from_pretrained(str(folder)).model.config.temperature != 1.0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in its training", "in that on the labels alone"])
def test_a_student_that_was_killed_goes_on(moment, recipe, distilled, tmp_path, monkeypatch):
    first, words, expected = distilled
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kept, stop = recipe.training_callbacks, Stop(2, alone="labels" in moment)
        more = functools.wraps(kept)(lambda *args, **kwargs: [*kept(*args, **kwargs), stop])
        patch.setattr(recipe, "training_callbacks", more)
        run(recipe, tmp_path / "run", *words)
    results = run(recipe, tmp_path / "run", *words, "--resume_from_checkpoint")
    assert results["test_accuracy"] == expected["test_accuracy"]
    for folder in (".", "plain"):
        paths = [where / folder / "model.safetensors" for where in (first, tmp_path / "run")]
        assert paths[0].read_bytes() == paths[1].read_bytes(), folder
        tables = [pd.read_parquet(where / folder / PREDICTIONS) for where in (first, tmp_path / "run")]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.slow
def test_another_teacher_or_temperature_is_another_run(recipe, distilled, teacher_folder, tmp_path):
    first, words, _ = distilled
    shutil.copytree(first, tmp_path / "run")
    with pytest.raises(ValueError, match="Found temperature 5.0, expected 2.0 as in"):
        run(recipe, tmp_path / "run", *words, "--temperature", "5", "--resume_from_checkpoint")
