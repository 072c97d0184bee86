from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from transformers import Trainer, TrainerCallback

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    WindowCollator,
    load_splits,
    make_compute_metrics,
    tokenize_windows,
    training_callbacks,
)
from bertcls.data.columns import WithLengths
from bertcls.training.callbacks import LongestBatchFirst, StopAtNonFinite
from bertcls.training.checkpoints import sampler_of
from bertcls.training.launch import parse


@pytest.fixture(scope="module")
def rows(tokenizer):
    rows = load_splits(str(SAMPLE))["train"].select(range(48))
    options = {"tokenizer": tokenizer, "max_length": 64}
    return rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=options)


def train(encoder_folder, rows, tokenizer, folder, callbacks, *words, spoil=False, collator=None, num_labels=3):
    _, training_args = parse(
        RecipeArguments,
        ["--output_dir", str(folder), "--max_steps", "3", "--use_cpu", "--eval_strategy", "no", *words],
        defaults={"per_device_train_batch_size": 16, "learning_rate": 1e-3},
    )
    torch.manual_seed(0)
    model = BertClsForSequenceClassification.from_encoder(
        encoder_folder, num_labels=num_labels, problem_type="regression" if num_labels == 1 else None
    )
    if spoil:
        torch.nn.init.constant_(model.classifier.weight, float("nan"))
    trainer = Trainer(
        model,
        training_args,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator or WindowCollator(tokenizer),
        compute_metrics=make_compute_metrics(model.config),
        callbacks=callbacks,
    )
    trainer.train()
    return trainer


@pytest.mark.slow
def test_the_step_on_the_longest_batch_changes_nothing(encoder_folder, rows, tokenizer, tmp_path, capsys):
    with_it = train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()])
    line = capsys.readouterr().out
    without = train(encoder_folder, rows, tokenizer, tmp_path / "b", [])
    for (name, ours), (_, plain) in zip(with_it.model.named_parameters(), without.model.named_parameters()):
        assert torch.equal(ours, plain), name  # dropout is on, so the random states must be the same, too
    longest = max(rows["length"][:])
    assert f"Longest batch: 16 texts of up to {longest} tokens fit. Expected: " in line
    assert "for 3 steps" in line and "GiB of cpu memory per process" in line


def test_tf32_ends_with_training(encoder_folder, rows, tokenizer, tmp_path, monkeypatch):
    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(torch.backends.cuda.matmul.fp32_precision)

    seen = []
    monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    try:
        for name in ("a", "b"):  # as --seeds does
            train(
                encoder_folder, rows, tokenizer, tmp_path / name, [Look(), *training_callbacks(None)], "--tf32", "true"
            )
            assert torch.backends.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "none"
        assert seen == ["tf32"] * 6
    finally:
        torch.backends.fp32_precision = "none"


def test_lengths_are_read_once(encoder_folder, rows, tokenizer, tmp_path):
    trainer = train(encoder_folder, WithLengths.of(rows), tokenizer, tmp_path / "a", [])
    for loader in (trainer.callback_handler.train_dataloader, trainer.get_eval_dataloader(WithLengths.of(rows))):
        sampler = sampler_of(loader)
        assert type(sampler).__name__ == "LengthGroupedSampler"
        assert sampler.lengths == rows["length"][:] and type(sampler.lengths) is list


@pytest.mark.slow
def test_workers_change_no_weight(encoder_folder, tokenizer, tmp_path):
    """Long texts, so that windows are drawn: in the model, from a generator that no worker touches."""
    long = load_splits(str(SAMPLE.parent / "long"))["train"]
    long = long.map(
        tokenize_windows, batched=True, remove_columns="text", fn_kwargs={"tokenizer": tokenizer, "max_length": 32}
    )
    words = ["--per_device_train_batch_size", "4", "--dataloader_num_workers"]
    one, other = (train(encoder_folder, long, tokenizer, tmp_path / n, [], *words, n) for n in ("0", "2"))
    for (name, a), (_, b) in zip(one.model.named_parameters(), other.model.named_parameters()):
        assert torch.equal(a, b), name


@pytest.mark.slow
def test_length_groups_pad_little(encoder_folder, rows, tokenizer, tmp_path):
    words = ["--per_device_train_batch_size", "4"]
    trainer = train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()], *words)
    shares = [float(batch["attention_mask"].float().mean()) for batch in trainer.get_train_dataloader()]
    assert np.mean(shares) > 0.75


def test_a_loss_that_is_not_finite_stops_the_run(encoder_folder, rows, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="The loss of the longest batch is nan before training"):
        train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()], spoil=True)


def bad_label(rows):
    """A regression whose 22nd row has no number: with batches of 4 in order it comes in step 6."""
    labels = [0.5] * 48
    labels[21] = float("nan")
    return rows.remove_columns("label").add_column("label", labels)


IN_ORDER = ["--max_steps", "9", "--per_device_train_batch_size", "4", "--train_sampling_strategy", "sequential"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, message",
    [
        ("--logging_steps 4", "The loss is nan since one of the steps 5 to 8; expected finite numbers. Lower --learn"),
        ("--logging_steps 9 --save_steps 3", "Found weights that are not finite since one of the steps 1 to 6; "),
        (
            "--logging_steps 100 --save_strategy no",
            "The loss is nan since one of the steps 1 to 9; ",
        ),  # the summary's
    ],
)
def test_a_loss_that_becomes_nan_stops_the_run(encoder_folder, rows, tokenizer, tmp_path, words, message):
    words = [*IN_ORDER, "--save_strategy", "steps", *words.split()]
    with pytest.raises(ValueError, match=message) as caught:
        callbacks = [StopAtNonFinite()]
        train(encoder_folder, bad_label(rows), tokenizer, tmp_path / "a", callbacks, *words, num_labels=1)
    assert "--debug underflow_overflow" in str(caught.value) and "\n" not in str(caught.value)
    saved = {path.name for path in (tmp_path / "a" / "checkpoints").iterdir()}
    assert saved == ({"checkpoint-3"} if "--save_steps" in words else set())  # none with bad weights


class Infinite(TrainerCallback):
    """Multiplies a gradient in step 2 by infinity, as an overflow does."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        weight = model.encoder.encoder.layer[1].output.dense.weight
        weight.register_hook(lambda gradient: gradient * float("inf") if state.global_step == 1 else gradient)


def test_an_infinite_gradient_stops_the_run(encoder_folder, rows, tokenizer, tmp_path):
    callbacks = [Infinite(), StopAtNonFinite()]
    with pytest.raises(ValueError, match="The norm of the gradients is (nan|inf) since step 2; expected"):
        train(encoder_folder, rows, tokenizer, tmp_path / "a", callbacks, "--logging_steps", "1")


@pytest.mark.slow
def test_looking_for_nan_changes_nothing(encoder_folder, rows, tokenizer, tmp_path):
    callbacks = training_callbacks(SimpleNamespace(metric_for_best_model=None))
    others = [callback for callback in callbacks if not isinstance(callback, StopAtNonFinite)]
    plain = train(encoder_folder, rows, tokenizer, tmp_path / "a", others, "--save_steps", "1")
    looked = train(encoder_folder, rows, tokenizer, tmp_path / "b", callbacks, "--save_steps", "1")
    for (name, ours), (_, theirs) in zip(looked.model.named_parameters(), plain.model.named_parameters()):
        assert torch.equal(ours, theirs), name


@pytest.mark.slow
def test_out_of_memory_names_the_remedy(encoder_folder, rows, tokenizer, tmp_path, monkeypatch):
    loss_of = BertClsForSequenceClassification._loss

    def explode(self, logits, *args):
        if len(logits) > 8:  # what the CPU's allocator says
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory")
        return loss_of(self, logits, *args)

    monkeypatch.setattr(BertClsForSequenceClassification, "_loss", explode)
    found = train(encoder_folder, rows, tokenizer, tmp_path / "b", [LongestBatchFirst()], "--auto_find_batch_size")
    assert found.state.global_step == 3 and found.state.train_batch_size <= 8
    with pytest.raises(ValueError, match="does not fit in the memory of cpu. Lower --per_device_train_batch_size"):
        train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()])
