"""Few rows: a start by a linear model, a contrastive stage, how long to train, what to choose by, and folds."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import TINY, load_recipe
from datasets import ClassLabel, Dataset, DatasetDict, List
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import AutoTokenizer, TrainerControl, TrainerState

from bertcls import BertClsForSequenceClassification, RecipeArguments, RunArguments, WindowCollator
from bertcls.data.splits import arrange_splits
from bertcls.hub import check_answers
from bertcls.inference import TextClassifier, texts_of
from bertcls.layout import PREDICTIONS, RESULTS
from bertcls.report.compare import load_arm
from bertcls.report.folds import FoldAnswers, as_folds_chose
from bertcls.tokenization import tokenize_windows
from bertcls.training.adapters import merge_adapters
from bertcls.training.callbacks import ChooseEpoch
from bertcls.training.contrastive import balanced_order, contrastive_stage, gathered_loss, supervised_contrastive_loss
from bertcls.training.head_start import FrozenEncoder, fit_linear_head, start_head, vectors_of
from bertcls.training.launch import parse_runs
from bertcls.training.plan import prepare_training

WORDS = {
    "sport": "team coach goal season match",
    "money": "bank market shares loan profit",
    "air": "rain wind sky sun",
}
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def topics(rows: int, seed: int = 0) -> Dataset:
    """Texts whose words tell their label, some of several windows."""
    random = np.random.default_rng(seed)
    labels = [row % len(WORDS) for row in range(rows)]
    texts = [
        " ".join(random.choice(list(WORDS.values())[label].split(), 4 + 9 * (row % 5)))
        for row, label in enumerate(labels)
    ]
    found = Dataset.from_dict({"text": texts, "label": labels, "example_id": list(range(rows))})
    return found.cast_column("label", ClassLabel(names=list(WORDS)))


def tokenized(rows: Dataset, **options) -> Dataset:
    how = {"tokenizer": AutoTokenizer.from_pretrained(TINY), "max_length": 16, **options}
    return rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=how)


@pytest.fixture
def model(encoder_folder):
    def make(**options):
        torch.manual_seed(0)
        options = {"id2label": dict(enumerate(WORDS)), "problem_type": SINGLE, "pooling": "mean", **options}
        return BertClsForSequenceClassification.from_encoder(encoder_folder, **options)

    return make


@pytest.fixture
def collator():
    return WindowCollator(AutoTokenizer.from_pretrained(TINY))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mean", "max", "mean_probs", "vote"])
def test_vectors_are_those_that_the_head_reads(model, collator, how):
    rows, made = tokenized(topics(20)), model(window_pooling=how, windows_per_forward=3)
    vectors, row_of = vectors_of(made, rows, collator)
    inputs = collator([rows[row] for row in range(20)])
    with torch.no_grad():
        output = made.eval()(**inputs, return_window_logits=True)
        expected = output.logits if how in ("mean", "max") else output.window_logits
        found = made.head(torch.from_numpy(vectors))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert row_of.tolist() == (list(range(20)) if how in ("mean", "max") else inputs["window_example"].tolist())


def test_the_head_gives_the_answers_of_the_linear_model():
    random = np.random.default_rng(0)
    labels = np.array([0, 1, 2] * 20)
    vectors = random.normal(size=(60, 5)) + np.eye(5)[labels] * 2 + 7
    head = fit_linear_head(vectors, labels, problem_type=SINGLE, num_labels=4)  # the fourth class has no row
    logits = vectors @ head.weight.T + head.bias
    assert (logits.argmax(1) == labels).mean() > 0.8 and (logits.argmin(1) == 3).all()
    two = fit_linear_head(vectors[labels < 2], labels[labels < 2], problem_type=SINGLE, num_labels=2)
    margins = vectors @ (two.weight[1] - two.weight[0]) + two.bias[1] - two.bias[0]
    centred = vectors[labels < 2] - vectors[labels < 2].mean(0)
    unit = centred / np.sqrt(np.square(centred).sum(1).mean())
    plain = LogisticRegression(max_iter=2000).fit(unit, labels[labels < 2]).decision_function(unit)
    sharper = margins[labels < 2] / plain  # by cross-validation, one number
    np.testing.assert_allclose(sharper, sharper.mean(), rtol=1e-3)
    assert 1 <= sharper.mean() <= 20 and two.sharpness == [pytest.approx(sharper.mean(), rel=1e-3)]
    given = fit_linear_head(
        vectors[labels < 2], labels[labels < 2], problem_type=SINGLE, num_labels=2, sharpness=[3.0]
    )
    np.testing.assert_allclose(given.weight, two.weight * 3.0 / two.sharpness[0], rtol=1e-6, atol=1e-9)
    weighted = fit_linear_head(vectors, labels, problem_type=SINGLE, num_labels=3, class_weights=[20.0, 1.0, 1.0])
    assert ((vectors @ weighted.weight.T + weighted.bias).argmax(1) == 0).sum() >= (logits.argmax(1) == 0).sum()


def test_windows_of_a_text_and_lone_texts_of_a_class_are_not_held_out_of_their_own_kind():
    random = np.random.default_rng(0)
    labels, texts = np.arange(40) % 2, np.repeat(np.arange(40), 5)
    noise = random.normal(size=(40, 200))  # nothing to learn but the texts themselves
    windows = noise[texts] + 0.01 * random.normal(size=(200, 200))
    options = {"problem_type": SINGLE, "num_labels": 3}
    apart = fit_linear_head(windows, labels[texts], **options)
    together = fit_linear_head(windows, labels[texts], texts=texts, **options)
    assert apart.sharpness[0] > 10 and together.sharpness[0] < 1.5

    once = fit_linear_head(noise, np.eye(40)[:, :1], problem_type=MULTI, num_labels=1)  # a label that one text has
    assert once.sharpness == [1.0]

    told = random.normal(size=(41, 5)) + 2 * np.eye(5)[[*labels, 2]]
    lone = fit_linear_head(told, np.array([*labels, 2]), **options)  # the last is the only one of its class
    assert lone.sharpness[0] == pytest.approx(fit_linear_head(told[:40], labels, **options).sharpness[0], rel=0.3)
    for one in (0, 2):  # rows of one class alone
        head = fit_linear_head(told, np.full(41, one), **options)
        assert ((told @ head.weight.T + head.bias).argmax(1) == one).all()


def test_several_labels_and_numbers():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(80, 4))
    several = np.stack([vectors[:, 0] > 0, vectors[:, 1] > 1, np.ones(80)], 1).astype(int)
    head = fit_linear_head(vectors, several, problem_type=MULTI, num_labels=3)
    found = vectors @ head.weight.T + head.bias >= 0
    assert (found == several).mean() > 0.9 and found[:, 2].all() and len(head.sharpness) == 3
    numbers = 3 * vectors[:, 2] - 1
    head = fit_linear_head(vectors, numbers, problem_type=REGRESSION, num_labels=1)
    np.testing.assert_allclose(vectors @ head.weight[0] + head.bias[0], numbers, atol=0.05)


def test_a_head_with_a_hidden_layer_or_random_keeps_its_weights(model, collator, tmp_path):
    rows = tokenized(topics(12))
    for made, how in ((model(classifier_hidden_size=8), "auto"), (model(), "random")):
        before = made.classifier.weight.clone()
        plan(made, collator, tmp_path, 12, head_init=how)
        assert not hasattr(made, "linear_start") and torch.equal(made.classifier.weight, before)
    assert start_head(model(), rows, collator, rows=9).weight.shape == (3, made.config.hidden_size)


def test_vectors_are_normalized_where_the_checkpoint_says_so(encoder_folder, tmp_path):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    modules = [{"type": f"sentence_transformers.models.{name}", "path": name} for name in ("Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    made = BertClsForSequenceClassification.from_encoder(str(folder), num_labels=2).eval()
    other = BertClsForSequenceClassification.from_encoder(str(folder), num_labels=2, pooling="cls").eval()
    assert made.config.normalize and made.config.pooling == "mean" and not other.config.normalize
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    with torch.no_grad():
        vector, hidden = made.encode_windows(inputs)[0], made.encoder(**inputs).last_hidden_state[0].mean(0)
    torch.testing.assert_close(vector, hidden / hidden.norm() * len(hidden) ** 0.5, rtol=0, atol=1e-5)
    made.save_pretrained(tmp_path / "saved")
    assert BertClsForSequenceClassification.from_pretrained(tmp_path / "saved").config.normalize


def test_the_contrastive_loss_is_that_of_its_formula():
    torch.manual_seed(0)
    vectors, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 1, 2])
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    losses = []
    for one in range(5):  # the last has no other text of its label
        others = [j for j in range(6) if j != one]
        weights = {j: float(torch.exp(unit[one] @ unit[j] / 0.1)) for j in others}
        alike = [j for j in others if labels[j] == labels[one]]
        losses.append(-np.mean([np.log(weights[j] / sum(weights.values())) for j in alike]))
    assert supervised_contrastive_loss(vectors, labels).item() == pytest.approx(np.mean(losses), abs=1e-5)
    assert supervised_contrastive_loss(vectors[:2], torch.tensor([0, 1])).item() == 0
    sets = torch.nn.functional.one_hot(labels)
    assert supervised_contrastive_loss(vectors, sets).item() == pytest.approx(np.mean(losses), abs=1e-5)


def _loss_of_half(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    vectors, labels = torch.load(f"{folder}/batch.pt")
    own = vectors[3 * rank : 3 * rank + 3].clone().requires_grad_()
    loss = gathered_loss(SimpleNamespace(vectors=own), labels[3 * rank : 3 * rank + 3])
    loss.backward()
    torch.save((loss.detach(), own.grad), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_of_one(tmp_path):
    torch.manual_seed(0)
    vectors, labels = torch.randn(6, 8, requires_grad=True), torch.tensor([0, 1, 1, 0, 2, 0])
    expected = gathered_loss(SimpleNamespace(vectors=vectors), labels)
    expected.backward()
    torch.save((vectors.detach(), labels), tmp_path / "batch.pt")
    torch.multiprocessing.spawn(_loss_of_half, (str(tmp_path),), nprocs=2)
    losses, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)))
    torch.testing.assert_close(torch.stack(losses), expected.detach().expand(2), rtol=0, atol=1e-5)
    mean = torch.cat(gradients) / 2  # as DDP takes it over processes
    torch.testing.assert_close(mean, vectors.grad, rtol=0, atol=1e-5)


def test_every_batch_has_two_texts_of_each_label_in_it():
    labels = np.repeat(np.arange(20), 3)
    order = balanced_order(labels, 320, seed=1)
    for batch in labels[order].reshape(-1, 32):
        assert np.bincount(batch, minlength=20)[np.unique(batch)].min() >= 1
        assert (np.bincount(batch)[np.unique(batch)] >= 2).mean() >= 0.9
    rare = balanced_order(np.array([0] * 50 + [1]), 60, seed=1)
    assert (rare == 50).sum() == 20 and len(rare) == 60


@pytest.mark.slow
def test_the_contrastive_stage_brings_texts_of_a_label_together(model, collator, tmp_path):
    rows, made = tokenized(topics(30)), model()
    made.config.class_weights = None
    training_args = RunArguments(str(tmp_path), bf16=False, disable_tqdm=True, warmup_steps=500)  # of the run's epochs

    def apart() -> float:
        vectors, _ = vectors_of(made, rows, collator)
        return float(supervised_contrastive_loss(torch.from_numpy(vectors), torch.tensor(rows["label"][:])))

    head, before = made.classifier.weight.clone(), apart()
    contrastive_stage(made, rows, collator, training_args, steps=8, learning_rate=1e-3)
    assert apart() < before - 0.1 and torch.equal(made.classifier.weight, head)
    assert all(parameter.requires_grad for parameter in made.parameters())


def plan(model, collator, tmp_path, rows, validation=None, words=(), **options) -> RunArguments:
    training_args = RunArguments(str(tmp_path), disable_tqdm=True, **dict(words))
    splits = DatasetDict(train=tokenized(topics(rows)))
    if validation:
        splits["validation"] = tokenized(topics(validation, seed=1))
    prepare_training(model, splits, collator, training_args, **options)
    return training_args


def test_epochs_follow_from_the_rows(model, collator, tmp_path, capsys):
    random = {"head_init": "random"}
    sizes = {"per_device_train_batch_size": 8}
    assert plan(model(), collator, tmp_path, 30, words=sizes, **random).num_train_epochs == 25
    said, sizes_of = capsys.readouterr().out, model().num_parameters()
    assert f"{sizes_of:,} of {sizes_of:,} parameters train" in said and "30 rows: 25 epochs, 100 steps" in said
    assert plan(model(), collator, tmp_path, 300, words=sizes, **random).num_train_epochs == 4  # of 38 steps
    assert plan(model(), collator, tmp_path, 30, words=sizes | {"num_train_epochs": 2}).num_train_epochs == 2
    assert plan(model(), collator, tmp_path, 30, words=sizes | {"max_steps": 7}).max_steps == 7


def test_after_the_contrastive_stage_the_head_is_as_sharp_as_held_out_rows_support(model, collator, tmp_path):
    made, rows = model(), tokenized(topics(12))
    plan(made, collator, tmp_path, 12, contrastive_steps=3)
    vectors, _ = vectors_of(made, rows, collator)
    options = {"problem_type": SINGLE, "num_labels": 3, "sharpness": [made.linear_start.sharpness[0] ** 0.5]}
    head = fit_linear_head(vectors, np.array(rows["label"]), **options)
    np.testing.assert_allclose(made.classifier.weight.detach().numpy(), head.weight, rtol=1e-3, atol=1e-3)


def test_the_contrastive_stage_trains_adapters(model, collator, tmp_path):
    made, kept = model(), model().state_dict()
    plan(made, collator, tmp_path, 12, lora_rank=4, contrastive_steps=3)
    merge_adapters(made)
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, kept[name])}
    matrices = {f"encoder.{name}.weight" for name, part in made.encoder.named_modules() if type(part) is nn.Linear}
    assert changed == matrices | {"classifier.weight", "classifier.bias"}


def test_a_head_that_no_linear_model_starts_is_trained(model, collator, tmp_path, capsys):
    found = plan(model(), collator, tmp_path, 30, head_init="random", contrastive_steps=2)
    assert found.num_train_epochs == 25 and "30 rows: 2 contrastive steps, then 25 epochs" in capsys.readouterr().out
    made = model()
    assert plan(made, collator, tmp_path, 30, freeze_encoder=True).num_train_epochs == 25  # no encoder to train
    assert made.contrastive_steps == 0 and made.linear_start is not None
    with pytest.raises(ValueError, match="Found --contrastive_steps 2 with a frozen encoder"):
        plan(model(), collator, tmp_path, 30, freeze_encoder=True, contrastive_steps=2)
    made.config.problem_type = REGRESSION
    with pytest.raises(ValueError, match="Found --contrastive_steps 8 with numbers as labels; expected classes"):
        plan(made, collator, tmp_path, 30, contrastive_steps=8)


def test_a_schedule_that_follows_the_loss_knows_its_direction(model, collator, tmp_path):
    words = {"lr_scheduler_type": "reduce_lr_on_plateau"}
    found = plan(model(), collator, tmp_path, 30, 60, words=words, head_init="random")
    assert found.metric_for_best_model == "calibrated_loss" and found.lr_scheduler_kwargs["mode"] == "min"


def test_what_an_epoch_is_chosen_by(model, collator, tmp_path, capsys):
    found = plan(model(), collator, tmp_path, 30, head_init="random")
    assert found.eval_strategy == "no" and not found.load_best_model_at_end and not found.eval_on_start
    assert "No rows to choose an epoch by: the last one is taken." in capsys.readouterr().out
    assert plan(model(), collator, tmp_path, 12).num_train_epochs == 0
    said = capsys.readouterr().out
    assert "a linear head (fewer than 160 a class; " in said and "No rows to choose an epoch" not in said
    assert plan(model(), collator, tmp_path, 30, 60, head_init="random").metric_for_best_model == "calibrated_loss"
    assert plan(model(), collator, tmp_path, 30, 240, head_init="random").metric_for_best_model == "accuracy"
    named = {"metric_for_best_model": "f1_macro"}
    assert (
        plan(model(), collator, tmp_path, 30, 60, words=named, head_init="random").metric_for_best_model == "f1_macro"
    )


@pytest.mark.parametrize(
    "start, epochs, chosen",  # accuracy and loss of 200 rows, whose standard error is some 2.6 points
    [
        ((0.84, 0.4), [(0.80, 0.5), (0.80, 0.5)], "start"),
        ((0.84, 0.4), [(0.80, 0.5), (0.82, 0.5)], "checkpoint-2"),  # no worse beyond noise
        ((0.84, 0.4), [(0.82, 0.5), (0.82, 0.4)], "checkpoint-2"),  # as right, and surer of it
        ((0.84, 0.4), [(0.82, 0.4), (0.82, 0.5)], "checkpoint-1"),
    ],
)
def test_the_start_is_chosen_beyond_noise_and_of_equal_epochs_the_one_of_least_loss(tmp_path, start, epochs, chosen):
    args = RunArguments(str(tmp_path), metric_for_best_model="accuracy", eval_strategy="epoch", save_strategy="epoch")
    args.load_best_model_at_end = args.eval_on_start = args.greater_is_better = True
    AcceleratorState._reset_state()
    Accelerator(cpu=True)
    chooser, state, control = ChooseEpoch(), TrainerState(), TrainerControl()
    model = SimpleNamespace(linear_start=1, save_pretrained=lambda folder: folder.mkdir())
    chooser.on_train_begin(args, state, control, model=model)
    for epoch, (score, loss) in enumerate([start, *epochs]):
        metrics = {"eval_accuracy": score, "eval_loss": loss, "eval_calibrated_loss": loss}
        rows = SimpleNamespace(dataset=range(200))
        chooser.on_evaluate(args, state, control, metrics=metrics, eval_dataloader=rows)
        if epoch == 0:
            chooser.on_epoch_begin(args, state, control)
        elif metrics["eval_accuracy"] > state.best_metric:  # as Trainer does
            state.best_metric, state.best_model_checkpoint = metrics["eval_accuracy"], f"checkpoint-{epoch}"
        chooser.on_save(args, state, control)
        state.global_step += 1
    assert Path(state.best_model_checkpoint).name == chosen
    assert (tmp_path / "start").is_dir() == (chosen == "start")


def write_rows(folder, rows: Dataset) -> str:
    folder.mkdir()
    names = rows.features["label"].names
    lines = [json.dumps({"text": row["text"], "label": names[row["label"]]}) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines))
    return str(folder)


def write_fold(folder, number: int, logits: np.ndarray, first: int, temperature: float, **chosen) -> None:
    """What a fold leaves that answers rows from `first` on by logits that it divides by a temperature."""
    report = folder / f"fold-{number}" / "report"
    report.mkdir(parents=True)
    facts = {"model": {"contract": {"temperature": temperature}}, "chosen": chosen}
    (report / "metrics.json").write_text(json.dumps(facts))
    values = np.exp(logits / temperature) / np.exp(logits / temperature).sum(1, keepdims=True)
    columns = {
        f"probability_{name}": values[:, number] for number, name in enumerate(topics(3).features["label"].names)
    }
    told = topics(first + len(logits)).to_pandas()[first:].reset_index(drop=True)
    told = told.assign(label=[[*WORDS][label] for label in told["label"]], **columns)
    told.to_parquet(report / "predictions.parquet")


def test_the_frozen_encoder_answers_folds_by_the_rows_of_others(model):
    rows, made = topics(60), model()
    classifier = TextClassifier(made, AutoTokenizer.from_pretrained(TINY), device="cpu")
    frozen, fold_of = FrozenEncoder(classifier), np.arange(60) // 30
    found = frozen.probabilities(rows, fold_of)
    vectors = classifier.logits_and_vectors(texts_of(rows))[1]
    head = fit_linear_head(vectors[:30], np.array(rows["label"][:30]), problem_type=SINGLE, num_labels=3)
    expected = classifier.to_probabilities(vectors[30:] @ head.weight.T + head.bias)
    np.testing.assert_allclose(found[30:], expected, rtol=0, atol=1e-5)
    assert np.abs(found - frozen.probabilities(rows)).max() > 0.01
    made.config.problem_type, made.config.num_labels, made.config.label_mean, made.config.label_scale = (
        REGRESSION,
        1,
        5,
        2,
    )
    numbers = rows.select_columns("text").add_column("label", [5.0 + (row % 3) for row in range(60)])
    assert 4 < frozen.probabilities(numbers, fold_of).mean() < 8


def test_folds_that_calibrated_themselves_leave_the_temperature_of_raw_logits(tmp_path):
    rows, random = topics(300), np.random.default_rng(0)
    logits = 3 * (random.normal(size=(300, 3)) + 1.5 * np.eye(3)[rows["label"][:]])  # surer than right
    for name, temperatures in (("plain", (1.0, 1.0)), ("calibrated", (2.0, 4.0))):
        for number, temperature in enumerate(temperatures):
            part = logits[150 * number : 150 * (number + 1)]
            write_fold(tmp_path / name, number + 1, part, 150 * number, temperature)
    plain, found = (
        FoldAnswers(tmp_path / name, rows, folds=2, problem_type=SINGLE) for name in ("plain", "calibrated")
    )
    assert plain.temperature > 1.5 and found.temperature == pytest.approx(plain.temperature, abs=1e-3)
    np.testing.assert_allclose(found.values, plain.values, rtol=0, atol=1e-3)
    changes = {"text": lambda row: {"text": "EDITED " + row["text"]}, "label": lambda row: {"label": 0}}
    for column, change in changes.items():
        with pytest.raises(ValueError, match=f"Found another {column} in the folds of .* than in the data"):
            FoldAnswers(tmp_path / "plain", rows.map(change), folds=2, problem_type=SINGLE)


@pytest.mark.parametrize(
    "chosen, words",
    [
        (((2, 0), (3, 0), (4, 0)), "--num_train_epochs 3"),
        (((0, 0), (0, 0), (1, 0)), "--num_train_epochs 0"),  # the untouched start was better
        (((0, 40), (0, 60), (0, 60)), "--num_train_epochs 0 --contrastive_steps 60"),
        (((0, 60), (0, 60), (4, 0), (4, 0)), "--num_train_epochs 4"),  # as some fold, not half as each
    ],
)
def test_the_final_model_is_trained_as_the_folds_were(tmp_path, chosen, words):
    for number, (epoch, steps) in enumerate(chosen, start=1):
        write_fold(tmp_path, number, np.zeros((1, 3)), 0, 1.0, epoch=epoch, contrastive_steps=steps)
    assert as_folds_chose(tmp_path, len(chosen)) == words.split()


QUICK = "--from_scratch --pooling mean --max_length 16 --learning_rate 3e-3 --num_train_epochs 3 --figures false"


@pytest.mark.slow
def test_folds_answer_every_row_by_a_model_that_did_not_see_it_and_one_model_is_trained_on_all(tmp_path):
    recipe, data = load_recipe("csv_finetune"), write_rows(tmp_path / "data", topics(60))
    words = ["--dataset_name", data, "--model_name_or_path", str(TINY), *QUICK.split(), "--folds", "3"]
    words += ["--output_dir", str(tmp_path / "run"), "--disable_tqdm", "true"]
    seen = []
    for args, training_args in parse_runs(RecipeArguments, words, defaults=recipe.DEFAULTS):
        recipe.main(args, training_args)
        seen.append(args.fold)
    assert seen == ["1/3", "2/3", "3/3", "final/3"]
    rows = topics(60)
    answers = FoldAnswers(tmp_path / "run", rows, folds=3, problem_type=SINGLE)
    assert answers.probabilities(texts_of(rows)).shape == (60, 3) and answers.temperature > 0
    np.testing.assert_allclose(answers.values.sum(1), 1, atol=1e-6)
    assert np.bincount(answers.fold_of).tolist() == [20, 20, 20]

    final = tmp_path / "run" / "final"
    facts = json.loads((final / RESULTS).read_text())
    epochs = [json.loads((tmp_path / "run" / f"fold-{n}" / RESULTS).read_text())["chosen"]["epoch"] for n in (1, 2, 3)]
    assert facts["chosen"]["of"] == np.median(epochs) and facts["chosen"]["by"] is None
    assert facts["task"]["reported_split"] == "folds" and facts["task"]["rows"] == {"train": 60, "test": 60}
    table = pd.read_parquet(final / PREDICTIONS)
    right = answers.values.argmax(1) == np.array(rows["label"])
    assert (table["label"] == table["prediction"]).tolist() == right.tolist()
    assert facts["scores"]["test_accuracy"] == right.mean()
    assert facts["model"]["contract"]["max_length"] == 16
    assert not any("as it came" in row["name"] for row in facts["baselines"])  # from scratch
    saved = json.loads((final / "config.json").read_text())["temperature"]
    assert saved == pytest.approx(answers.temperature, abs=1e-6)
    suspects = pd.read_csv(final / "report" / "suspects.csv")
    assert len(suspects) == facts["suspects"] == (~right).sum()
    assert facts["audit"]["leaked"] is False and "LEAK" not in "\n".join(facts["audit"]["lines"])
    assert load_arm(str(tmp_path / "run")).values.tolist() == [right.astype(float).tolist()]  # of all rows, once
    check_answers(str(final))  # there are none of this model


@pytest.mark.slow
def test_folds_of_some_rows_report_all(tmp_path):
    recipe, data = load_recipe("csv_finetune"), write_rows(tmp_path / "data", topics(60))
    words = ["--dataset_name", data, "--model_name_or_path", str(TINY), *QUICK.split(), "--folds", "3"]
    words += ["--max_train_samples", "30", "--output_dir", str(tmp_path / "run"), "--disable_tqdm", "true"]
    for args, training_args in parse_runs(RecipeArguments, words, defaults=recipe.DEFAULTS):
        recipe.main(args, training_args)
    facts = json.loads((tmp_path / "run" / "final" / RESULTS).read_text())
    assert facts["task"]["rows"] == {"train": 30, "test": 60}


@pytest.mark.parametrize(
    "words, message",
    [
        ("--folds 1", "Found --folds 1; expected at least 2"),
        ("--folds 5 --seeds 1 2", "Found --seeds with --folds"),
        ("--seeds 1 2 --seed 3", "Found --seeds with --seed"),
        ("--train_sizes 0.5 1.5", "Found --train_sizes 1.5; expected shares up to 1"),
        ("--head_init probe --classifier_hidden_size 8", "Found --head_init probe with --classifier_hidden_size"),
        ("--head_init probe --from_scratch", "Found --head_init probe with --from_scratch"),
        ("--seeds 1 1", "Found --seeds with a number twice"),
        ("--folds 3 --fold 1/3", "Found --folds with --fold"),
        ("--folds 3 --phrases", "Found --folds with --phrases true"),
        ("--folds 3 --split 8:1:1", "Found --folds with --split"),
        ("--folds 3 --report false", "Found --folds with --report false"),
        ("--folds 3 --max-test-samples 9", "Found --folds with --max_test_samples"),
        ("--train-sizes 0.5 1.5", "Found --train_sizes 1.5"),
        ("--classifier_dropout 2", "Found --classifier_dropout 2; expected 0 to 0.99"),
        ("--classifier_hidden_size 0", "Found --classifier_hidden_size 0; expected 1 or more"),
        ("--head_learning_rate -1", "Found --head_learning_rate -1; expected 0 or more"),
        ("--contrastive_steps -1", "Found --contrastive_steps -1; expected 0 or more"),
        ("--num_train_epochs -1", "Found --num_train_epochs -1; expected 0"),
        ("--max_train_samples 1.5", "Found --max_train_samples 1.5; expected at least 1, or a share below it"),
    ],
)
def test_what_contradicts_itself_gets_one_line(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        list(parse_runs(RecipeArguments, [*words.split(), "--output_dir", str(tmp_path / "run")], defaults={}))


@pytest.mark.parametrize("texts", [["a", "b"], ["a", "b", "c"], ["a", "b"] * 20])
def test_too_few_different_texts_to_hold_some_out(texts):
    rows = Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(len(texts))]})
    with pytest.raises(ValueError, match="different texts to hold some out of; expected more"):
        arrange_splits(DatasetDict(train=rows.cast_column("label", ClassLabel(names=["x", "y"]))))


def test_more_folds_than_texts_of_a_label_are_refused():
    rows = topics(7)
    with pytest.raises(ValueError, match="Found --folds 3 and 2 different texts of money; expected at most as many"):
        arrange_splits(DatasetDict(train=rows), fold="1/3")


@pytest.mark.parametrize("counts", [[274, 26], [396, 4], [50, 2, 7], [20] * 6, [3, 3, 3]])
@pytest.mark.parametrize("ratio", ["8:1:1", "6:2:2"])
def test_shares_are_kept_within_a_row(counts, ratio):
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = Dataset.from_dict({"text": [f"text {row}" for row in range(len(labels))], "label": labels.tolist()})
    rows = rows.cast_column("label", ClassLabel(num_classes=len(counts)))
    parts, _ = arrange_splits(DatasetDict(train=rows), split=ratio)
    shares = np.array([float(part) for part in ratio.split(":")])
    found = {name: np.bincount(part["label"][:], minlength=len(counts)) for name, part in parts.items()}
    assert sum(found.values()).tolist() == counts
    assert (abs(found["test"] - np.array(counts) * shares[2] / shares.sum()) <= 1.5).all()


def test_sets_of_labels_keep_their_shares_better_than_a_random_draw(monkeypatch):
    said = []
    monkeypatch.setattr("bertcls.data.splits.warn", said.append)
    random = np.random.default_rng(0)
    worst = []
    for seed in range(20):
        sets = random.random((200, 5)) < random.uniform(0.02, 0.4, 5)
        rows = Dataset.from_dict(
            {"text": [f"{seed} {row}" for row in range(200)], "label": [np.flatnonzero(one).tolist() for one in sets]}
        )
        rows = rows.cast_column("label", List(ClassLabel(num_classes=5)))
        parts, _ = arrange_splits(DatasetDict(train=rows), split="8:1:1", seed=seed)
        test = np.zeros(5)
        for row in parts["test"]["label"][:]:
            test[row] += 1
        drawn = sets[random.permutation(200)[: len(parts["test"])]].sum(0)
        expected = sets.mean(0) * len(parts["test"])
        worst.append((abs(test - expected).max(), abs(drawn - expected).max()))
    ours, theirs = np.array(worst).T
    assert ours.mean() < 0.6 * theirs.mean() and ours.max() <= theirs.max()
    share = {name: np.mean([0 in row for row in part["label"][:]]) for name, part in parts.items()}
    off = max(abs(one - sets[:, 0].mean()) for one in share.values())
    largest = float(re.search(r"^Label shares differ by (\d+\.\d) points at most", said[-1])[1])
    assert len(said) == 20 and 100 * off - 0.05 <= largest < 10
    arrange_splits(DatasetDict(train=rows), seed=seed)
    arrange_splits(DatasetDict(train=rows.select(range(60)), test=rows), seed=seed)  # none is held out
    assert "Held out of train" in said[-2] and "Label shares differ by" in said[-2] and "differ" not in said[-1]
