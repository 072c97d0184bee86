import numpy as np
import pytest
import torch
from conftest import SAMPLE
from transformers import Trainer

from bertcls import (
    BertClsForSequenceClassification,
    LongestBatchFirst,
    PaddingShare,
    RecipeArguments,
    WindowCollator,
    load_splits,
    make_compute_metrics,
    parse,
    tokenize_windows,
)


@pytest.fixture(scope="module")
def rows(tokenizer):
    rows = load_splits(str(SAMPLE))["train"].select(range(48))
    options = {"tokenizer": tokenizer, "max_length": 64}
    return rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=options)


def train(encoder_folder, rows, tokenizer, folder, callbacks, *words, spoil=False, collator=None):
    _, training_args = parse(
        RecipeArguments,
        ["--output_dir", str(folder), "--max_steps", "3", "--use_cpu", "--eval_strategy", "no", *words],
        defaults={"per_device_train_batch_size": 16, "learning_rate": 1e-3},
    )
    torch.manual_seed(0)
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, num_labels=3)
    if spoil:
        torch.nn.init.constant_(model.classifier.weight, float("nan"))
    trainer = Trainer(
        model,
        training_args,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=collator or WindowCollator(tokenizer),
        compute_metrics=make_compute_metrics(["a", "b", "c"]),
        callbacks=callbacks,
    )
    trainer.train()
    return trainer


def test_the_step_on_the_longest_batch_changes_nothing(encoder_folder, rows, tokenizer, tmp_path, capsys):
    with_it = train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()])
    line = capsys.readouterr().out
    without = train(encoder_folder, rows, tokenizer, tmp_path / "b", [])
    for (name, ours), (_, plain) in zip(with_it.model.named_parameters(), without.model.named_parameters()):
        assert torch.equal(ours, plain), name  # dropout is on, so the random states must be the same, too
    longest = max(rows["length"][:])
    assert f"Longest batch: 16 texts of up to {longest} tokens fit. Expected: " in line
    assert "for 3 steps" in line and "GiB of cpu memory per process" in line


def test_lengths_are_read_once(encoder_folder, rows, tokenizer, tmp_path):
    trainer = train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()])
    sampler = trainer.callback_handler.train_dataloader.get_sampler()
    assert type(sampler).__name__ == "LengthGroupedSampler"
    assert sampler.lengths == rows["length"][:] and type(sampler.lengths) is list


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_share_of_padding_is_logged(encoder_folder, rows, tokenizer, tmp_path, workers):
    words = ["--logging_steps", "1", "--train_sampling_strategy", "random", "--dataloader_num_workers", workers]
    collator = WindowCollator(tokenizer)
    trainer = train(
        encoder_folder, rows, tokenizer, tmp_path / "a", [PaddingShare(collator)], *words, collator=collator
    )
    shares = [entry["padding_share"] for entry in trainer.state.log_history if "padding_share" in entry]
    batches = [float(batch["attention_mask"].float().mean()) for batch in trainer.get_train_dataloader()]
    assert len(shares) >= 1 and all(0 < share < 1 for share in shares)
    if workers == "0":  # batches are read one ahead, by workers further: they count a little earlier
        assert 1 - np.mean(shares) == pytest.approx(np.mean(batches), abs=0.1)


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


def test_length_groups_pad_little(encoder_folder, rows, tokenizer, tmp_path):
    words = ["--per_device_train_batch_size", "4"]
    trainer = train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()], *words)
    shares = [float(batch["attention_mask"].float().mean()) for batch in trainer.get_train_dataloader()]
    assert np.mean(shares) > 0.75


def test_a_loss_that_is_not_finite_stops_the_run(encoder_folder, rows, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="The loss of the longest batch is nan before training"):
        train(encoder_folder, rows, tokenizer, tmp_path / "a", [LongestBatchFirst()], spoil=True)


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
