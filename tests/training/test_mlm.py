import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SAMPLE, TINY, load_recipe
from datasets import Dataset
from helpers import ENCODERS, run_recipe_main
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

from bertcls import BertClsForSequenceClassification, load_splits
from bertcls.modeling import declared_pooling
from bertcls.training.checkpoints import clear_output
from bertcls.training.launch import parse
from bertcls.training.masking import MaskedBatches, MaskingCheck, check_masking, mask_once, pack_blocks
from bertcls.training.mlm import declare_pooling, load_masked_lm, masked_metrics, masked_positions_only, save_encoder

TOKENIZER = AutoTokenizer.from_pretrained(TINY)
SPECIAL = [TOKENIZER.cls_token_id, TOKENIZER.sep_token_id, TOKENIZER.pad_token_id]


def masking(**settings) -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(TOKENIZER, **settings)


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    texts = load_splits(str(SAMPLE))["train"]
    return texts.map(
        pack_blocks,
        batched=True,
        remove_columns=texts.column_names,
        fn_kwargs={"tokenizer": TOKENIZER, "max_length": 32},
    )


# ------------------------------------------------------------------------------------------------ blocks and masks


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(st.text(alphabet="ab cd, 好e\n", max_size=60), min_size=1, max_size=6),
    max_length=st.integers(4, 40),
    whole_word_mask=st.booleans(),
)
def test_blocks_hold_every_token_once_in_order(texts, max_length, whole_word_mask):
    packed = pack_blocks({"text": texts}, tokenizer=TOKENIZER, max_length=max_length, whole_word_mask=whole_word_mask)
    plain = []
    for ids in TOKENIZER(texts, add_special_tokens=False)["input_ids"]:
        plain += ([SPECIAL[1]] if plain and ids else []) + ids
    stream = []
    for number, (ids, mask, length) in enumerate(zip(packed["input_ids"], packed["attention_mask"], packed["length"])):
        assert len(ids) == len(mask) == max_length
        assert mask == [1] * length + [0] * (max_length - length)
        assert ids[0] == SPECIAL[0] and ids[length - 1] == SPECIAL[1] and set(ids[length:]) <= {SPECIAL[2]}
        inside = ids[1 : length - 1]
        repeated = 0  # of the last block, which starts inside the one before
        if number and number == len(packed["input_ids"]) - 1:
            repeated = (max_length - 2) * (number + 1) - len(plain)
        stream += inside[repeated:]
    assert stream == plain
    for ids, special in zip(packed["input_ids"], packed["special_tokens_mask"]):
        assert [token for token, flag in zip(ids, special) if not flag] == [i for i in ids if i not in SPECIAL]


def test_masks_hit_the_share_that_is_asked_for(blocks):
    for share in (0.15, 0.4):
        batch = MaskedBatches(masking(mlm_probability=share, seed=0))(list(blocks))
        maskable = int((torch.tensor(blocks["special_tokens_mask"][:]) == 0).sum())
        found = int((batch["labels"] != -100).sum()) / maskable
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / maskable)
        assert not (batch["labels"] != -100)[torch.tensor(blocks["special_tokens_mask"][:]) == 1].any()


def test_whole_words_are_masked_whole_and_apart_from_their_punctuation():
    texts = ["unbelievably good, overacted!", "好电影。"] * 40
    packed = pack_blocks({"text": texts}, tokenizer=TOKENIZER, max_length=64, whole_word_mask=True)
    rows = [{name: packed[name][row] for name in packed} for row in range(len(packed["input_ids"]))]
    batch = MaskedBatches(masking(whole_word_mask=True, mlm_probability=0.4, seed=1))(rows)
    encoded = TOKENIZER(texts, add_special_tokens=False)
    words, number = [], 0  # of the whole stream, separators counted as words of their own
    for text in range(len(texts)):
        if text:
            words.append(number := number + 1)
        for word in encoded.word_ids(text):
            words.append(number + 1 + word)
        number = words[-1]
    room, fates = 62, {}
    for row in range(len(rows) - 1):  # the last block repeats
        for place, word in enumerate(words[row * room : (row + 1) * room]):
            fates.setdefault((row, word), []).append(bool(batch["labels"][row, 1 + place] != -100))
    assert any(len(fate) > 1 and all(fate) for fate in fates.values())
    assert all(len(set(fate)) == 1 for fate in fates.values())
    by_text = {}  # were neighbours one word, their fates would always be the same
    for (row, _word), fate in fates.items():
        by_text.setdefault(row, []).append(fate[0])
    changes = sum(a != b for fate in by_text.values() for a, b in zip(fate, fate[1:]))
    assert changes > 0.3 * sum(map(len, by_text.values()))  # 0.48 in expectation


def test_validation_masks_are_fixed_and_change_no_random_state(blocks):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = mask_once(blocks, masking(), seed=42)
    assert torch.equal(torch.rand(3), expected)
    assert first[:] == mask_once(blocks, masking(), seed=42)[:]
    assert first["labels"][:] != mask_once(blocks, masking(), seed=43)["labels"][:]
    batch = MaskedBatches(masking())([first[0], first[1]])
    assert batch["input_ids"].tolist() == first["input_ids"][:2] and batch["labels"].tolist() == first["labels"][:2]


# ------------------------------------------------------------------------------------------------ loss


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in ENCODERS if family != "longformer"])
def test_the_loss_of_masked_positions_alone_is_the_stock_loss(family):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(ENCODERS[family]).eval()
    ids = torch.randint(5, 60, (3, 12))
    labels = torch.where(torch.rand(3, 12) < 0.3, ids, -100)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    stock = model(**batch)
    stock.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    ours = masked_positions_only(model)(**batch)
    ours.loss.backward()
    assert ours.loss.item() == pytest.approx(stock.loss.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4)
    assert type(model).__name__ == type(AutoModelForMaskedLM.from_config(ENCODERS[family])).__name__
    scored = labels != -100
    right = (stock.logits.argmax(-1) == labels) & scored
    torch.testing.assert_close(ours.logits[:, 1:], torch.stack([right.sum(1), scored.sum(1)], 1).float())
    assert ours.logits[:, 0].sum().item() == pytest.approx(stock.loss.item() * scored.sum().item(), abs=1e-3)
    plain = model(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(plain.logits, stock.logits)


def test_batches_without_a_masked_position_train_and_score():
    model = masked_positions_only(AutoModelForMaskedLM.from_config(ENCODERS["bert"]))
    ids = torch.randint(5, 60, (2, 6))
    output = model(input_ids=ids, labels=torch.full_like(ids, -100))
    output.loss.backward()
    assert output.loss.item() == 0
    assert model.eval()(input_ids=ids, labels=torch.full_like(ids, -100)).logits.tolist() == [[0, 0, 0]] * 2


def tiny_trainer(model, tmp_path, blocks, collator=None, callbacks=(), **settings) -> Trainer:
    settings = {"per_device_train_batch_size": 4, "max_steps": 2, "report_to": "none", "seed": 3} | settings
    return Trainer(
        model,
        TrainingArguments(
            str(tmp_path), use_cpu=True, remove_unused_columns=False, label_names=["labels"], **settings
        ),
        data_collator=collator or MaskedBatches(masking()),
        train_dataset=blocks,
        eval_dataset=mask_once(blocks, masking(), seed=42),
        compute_metrics=masked_metrics,
        callbacks=list(callbacks),
    )


@pytest.mark.slow
def test_validation_scores_are_exact_whatever_the_batches(blocks, tmp_path):
    torch.manual_seed(0)
    model, missing = load_masked_lm(str(TINY), from_scratch=True)
    assert missing == []
    validation = mask_once(blocks, masking(), seed=42)
    ids, labels, mask = (torch.tensor(validation[name][:]) for name in ("input_ids", "labels", "attention_mask"))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=mask).logits
    loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=-100).item()
    for size in (1, 5, 64):
        metrics = tiny_trainer(model, tmp_path, blocks, per_device_eval_batch_size=size).evaluate()
        assert metrics["eval_masked_loss"] == pytest.approx(loss, abs=1e-5)
        assert metrics["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
        assert metrics["eval_masked_tokens"] == int((labels != -100).sum())


@pytest.mark.slow
def test_accumulated_steps_weigh_each_masked_position_alike(blocks, tmp_path):
    """8 rows in a step give the update of 4 times 2, though their numbers of masked positions differ."""
    fixed = mask_once(blocks, masking(), seed=1)
    weights = []
    for size, steps in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        model, _ = load_masked_lm(str(TINY), from_scratch=True)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = tiny_trainer(
            model,
            tmp_path,
            fixed,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0,
        )
        trainer.train()
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-5, rtol=0)


def test_metrics_by_hand():
    statistics = np.array([[2.0, 1, 2], [4.0, 0, 1], [0.0, 0, 0]])
    scores = masked_metrics(EvalPrediction(predictions=statistics, label_ids=None))
    assert scores == {
        "masked_loss": 2.0,
        "perplexity": math.exp(2),
        "masked_accuracy": pytest.approx(1 / 3),
        "masked_tokens": 3,
    }


# ------------------------------------------------------------------------------------------------ errors of the lab


def all_positions_as_labels(features):
    """The lab's: the masked input is the label, so copying is learnt and the loss means nothing."""
    batch = MaskedBatches(masking(seed=0))(features)
    return {**batch, "labels": batch["input_ids"].clone()}


def masked_input_as_labels(features):
    batch = MaskedBatches(masking(seed=0))(features)
    return {**batch, "labels": torch.where(batch["labels"] != -100, batch["input_ids"], -100)}


def answers_left_in_the_input(features):
    batch = MaskedBatches(masking(seed=0))(features)
    scored = batch["labels"] != -100
    return {**batch, "input_ids": torch.where(scored, batch["labels"], batch["input_ids"])}


@pytest.mark.parametrize(
    ("collator", "message"),
    [
        (all_positions_as_labels, r"score 100\.0 % of the positions; expected about 15 %"),
        (masked_input_as_labels, "labels are not the original token"),
        (answers_left_in_the_input, "still show their answer"),
        (MaskedBatches(masking(mlm_probability=0.5)), r"score 4\d\.\d % of the positions; expected about 15 %"),
        (MaskedBatches(masking(mlm_probability=0.02)), r"score [0-3]\.\d % of the positions; expected about 15 %"),
    ],
)
def test_wrong_labels_stop_the_run_before_its_first_step(collator, message, blocks, tmp_path):
    model, _ = load_masked_lm(str(TINY), from_scratch=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = tiny_trainer(model, tmp_path, blocks, collator, [MaskingCheck(0.15)])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_the_check_changes_nothing_in_a_right_run(blocks, tmp_path):
    weights = []
    for callbacks in ([], [MaskingCheck(0.15)]):
        torch.manual_seed(0)
        model, _ = load_masked_lm(str(TINY), from_scratch=True)
        tiny_trainer(model, tmp_path, blocks, callbacks=callbacks).train()
        weights.append(model.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_an_implausibly_low_first_loss_is_warned_of(tmp_path, caplog):
    same = Dataset.from_dict(
        {
            "input_ids": [[SPECIAL[0], *[7] * 30, SPECIAL[1]]] * 40,
            "attention_mask": [[1] * 32] * 40,
            "special_tokens_mask": [[1, *[0] * 30, 1]] * 40,
        }
    )
    model, _ = load_masked_lm(str(TINY), from_scratch=True)
    with torch.no_grad():
        model.get_output_embeddings().bias[7] = 100.0
    tiny_trainer(model, tmp_path, same, callbacks=[MaskingCheck(0.15)]).train()
    assert "The loss is 0.0000 before the first step, where a good encoder has 1.5 to 3" in caplog.text


def test_rows_shorter_than_the_batch_are_checked(blocks):
    batch = {
        "input_ids": torch.tensor([[2, 9, 3, 0]]),
        "labels": torch.tensor([[-100, 8, -100, -100]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0]]),
    }
    check_masking([batch], [[[2, 8, 3]]], 0.33)


# ------------------------------------------------------------------------------------------------ what is saved


def test_the_pooler_of_the_checkpoint_is_kept(encoder_folder, tmp_path):
    model, missing = load_masked_lm(encoder_folder)
    assert missing and all(name.startswith("cls.") for name in missing)
    with torch.no_grad():
        for parameter in model.base_model.parameters():
            parameter += 0.01
    kept = save_encoder(model.state_dict(), model, TOKENIZER, str(tmp_path), pooler_from=encoder_folder)
    assert kept == ["pooler.dense.bias", "pooler.dense.weight"]
    start = load_file(f"{encoder_folder}/model.safetensors")
    classifier = BertClsForSequenceClassification.from_encoder(str(tmp_path), num_labels=2)
    assert classifier.config.pooling == "pooler"
    for name, tensor in classifier.encoder.state_dict().items():
        expected = start[name] if name.startswith("pooler.") else start[name] + 0.01
        assert torch.equal(tensor, expected), name
    again, missing = load_masked_lm(str(tmp_path))  # with the head that was trained
    assert missing == []
    assert torch.equal(again.cls.predictions.transform.dense.weight, model.cls.predictions.transform.dense.weight)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]


def test_what_a_checkpoint_says_of_its_vectors_is_kept(encoder_folder, tmp_path):
    folder, out = shutil.copytree(encoder_folder, tmp_path / "start"), tmp_path / "out"
    declare_pooling(folder, "mean", True, width=8)
    model, _ = load_masked_lm(str(folder))
    save_encoder(model.state_dict(), model, TOKENIZER, str(out), pooler_from=str(folder))
    assert declared_pooling(str(out)) == declared_pooling(str(folder)) == ("mean", True)
    save_encoder(model.state_dict(), model, TOKENIZER, str(out), pooler_from=None)  # over what was there
    assert declared_pooling(str(out)) == (None, False)
    declare_pooling(out, "mean", True, width=8)
    clear_output(str(out))
    assert not (out / "modules.json").exists()


def test_a_checkpoint_without_a_pooler_gets_none(tmp_path):
    folder, out = tmp_path / "start", tmp_path / "out"
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(TINY)).save_pretrained(folder)
    model, missing = load_masked_lm(str(folder))
    assert missing == []
    assert save_encoder(model.state_dict(), model, TOKENIZER, str(out), pooler_from=str(folder)) == []
    assert BertClsForSequenceClassification.from_encoder(str(out), num_labels=2).config.pooling == "cls"


@pytest.mark.parametrize("lost", ["pooler.dense.weight", "encoder.layer.0.output.dense.weight"])
def test_a_save_that_loses_weights_is_refused(lost, encoder_folder, tmp_path, monkeypatch):
    model, _ = load_masked_lm(encoder_folder)
    save = type(model).save_pretrained

    def lossy(self, folder, state_dict):
        save(self, folder, state_dict={name: tensor for name, tensor in state_dict.items() if not name.endswith(lost)})

    monkeypatch.setattr(type(model), "save_pretrained", lossy)
    with pytest.raises(ValueError, match=f"is not the trained one: {lost} is random or differs"):
        save_encoder(model.state_dict(), model, TOKENIZER, str(tmp_path), pooler_from=encoder_folder)


def test_what_cannot_be_pretrained_further_is_refused(encoder_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="No model found at 'nowhere/at-all'"):
        load_masked_lm("nowhere/at-all")
    classifier = BertClsForSequenceClassification.from_encoder(encoder_folder, num_labels=2)
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match="is a bertcls model, for which transformers has no masked language model"):
        load_masked_lm(str(tmp_path / "classifier"))
    state = AutoModel.from_pretrained(encoder_folder).state_dict()
    del state["encoder.layer.1.output.dense.weight"]
    AutoModel.from_pretrained(encoder_folder).save_pretrained(tmp_path / "half", state_dict=state)
    with pytest.raises(ValueError, match="lacks 1 weights of the encoder"):
        load_masked_lm(str(tmp_path / "half"))


# ------------------------------------------------------------------------------------------------ the recipe


def pretrain(folder, *words) -> dict:
    recipe = load_recipe("imdb_mlm_pretrain")
    words = ["--sample", "--output_dir", str(folder), *words]
    args, training_args = parse(recipe.Arguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    return recipe.main(args, training_args)


@pytest.mark.slow
def test_the_sample_learns_and_its_encoder_is_fine_tuned(tmp_path, sst2_recipe, capsys):
    results = pretrain(tmp_path / "mlm")
    assert results["eval_masked_loss"] < results["before_masked_loss"] - 0.5
    assert all(f"eval_{name}" in results for name in load_recipe("imdb_mlm_pretrain").METRICS)
    assert "perplexity" in capsys.readouterr().out
    assert len({path.stat().st_mode for path in (tmp_path / "mlm").glob("*.*")}) == 1  # who reads one reads all
    assert {path.name for path in (tmp_path / "mlm").iterdir()} == {
        ".lock",
        "checkpoints",
        "config.json",
        "model.safetensors",
        "report",
        "run.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((tmp_path / "mlm" / "report" / "metrics.json").read_text())["scores"] == results
    assert (tmp_path / "mlm" / "report" / "loss.png").stat().st_size > 5000
    words = ["--model_name_or_path", str(tmp_path / "mlm"), "--from_scratch", "false", "--num_train_epochs", "1"]
    assert run_recipe_main(sst2_recipe, tmp_path / "tuned", *words)["train_samples"] > 0
    with pytest.raises(ValueError, match="holds no pooler weights"):
        run_recipe_main(sst2_recipe, tmp_path / "pooler", *words, "--pooling", "pooler")


@pytest.mark.slow
def test_a_random_head_is_trained_first_and_said(encoder_folder, tmp_path, capsys):
    words = ["--from_scratch", "false", "--model_name_or_path", encoder_folder, "--num_train_epochs", "1"]
    results = pretrain(tmp_path / "mlm", *words, "--head_warmup_steps", "30", "--whole_word_mask")
    untouched = pretrain(tmp_path / "cold", *words, "--head_warmup_steps", "0", "--whole_word_mask")
    assert results["before_masked_loss"] < untouched["before_masked_loss"]  # measured after the head's own steps
    assert results["pooler_kept"] and len(results["random_head_weights"]) > 0
    said = capsys.readouterr().out
    assert "The head was random and was trained alone for 30 steps before anything was measured." in said
    assert "The head was random and had no warm-up." in said


@pytest.mark.slow
def test_a_resumed_run_does_not_train_its_head_again(encoder_folder, tmp_path, capsys):
    words = ["--from_scratch", "false", "--model_name_or_path", encoder_folder, "--head_warmup_steps", "5"]
    first = pretrain(tmp_path / "run", *words, "--num_train_epochs", "1")
    capsys.readouterr()
    results = pretrain(tmp_path / "run", *words, "--num_train_epochs", "2", "--resume_from_checkpoint")
    assert "steps on it alone" not in capsys.readouterr().out
    assert results["before_masked_loss"] == first["before_masked_loss"]


@pytest.mark.slow
def test_a_run_stopped_within_an_epoch_goes_on_with_the_same_masks(encoder_folder, tmp_path, monkeypatch):
    words = ["--from_scratch", "false", "--model_name_or_path", encoder_folder, "--head_warmup_steps", "5"]
    words += ["--num_train_epochs", "2", "--per_device_train_batch_size", "8"]
    expected = pretrain(tmp_path / "whole", *words)

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(MaskingCheck, "on_step_begin", stop)
        pretrain(tmp_path / "run", *words)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-6"  # of more steps in the epoch
    results = pretrain(tmp_path / "run", *words, "--resume_from_checkpoint")
    assert results["eval_masked_loss"] == expected["eval_masked_loss"]
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_unlabelled_texts_come_from_their_split_or_a_file(tmp_path):
    for name, text in {"train": "labelled", "test": "held back", "unsupervised": "plain"}.items():
        Dataset.from_dict({"text": [text] * 2, "label": [0, 1]}).to_parquet(tmp_path / f"{name}-0.parquet")
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n"
    card += "".join(f"  - split: {name}\n    path: {name}-0.parquet\n" for name in ("train", "test", "unsupervised"))
    (tmp_path / "README.md").write_text(card + "---\n")
    found = load_splits(str(tmp_path), train_split=None, labelled=False)
    assert found["train"]["text"][:] == ["plain"] * 2 and found["train"].column_names == ["text", "example_id"]
    assert load_splits(str(tmp_path))["train"]["text"][:] == ["labelled"] * 2
    assert "test" not in load_splits(str(tmp_path), train_split="test", labelled=False)  # no row on both sides
    assert load_splits(str(tmp_path), train_split="test", labelled=False)["train"]["text"][:] == ["held back"] * 2
    (tmp_path / "mine.txt").write_text("one text\nanother\n")
    mine = load_splits(train_file=str(tmp_path / "mine.txt"), train_split=None, labelled=False)
    assert mine["train"]["text"][:] == ["one text", "another"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mlm_probability 0", "expected more than 0 and less than 1"),
        ("--mlm_probability 1.5", "expected more than 0 and less than 1"),
        ("--train_split unsupervised", "expected one named unsupervised"),
        ("--max_length 2", "max_length"),
        ("--head_warmup_steps -1", "expected 0 or more"),
        ("--validation_samples 0", "expected at least 1"),
        ("--label_smoothing_factor 0.1", "Found --label_smoothing_factor; expected it left out"),
        ("--push_to_hub", "Found --push_to_hub; expected it left out"),
        ("--metric_for_best_model masked_los", "masked_los; expected one of loss, masked_loss"),
    ],
)
def test_bad_options_get_one_line(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain(tmp_path / "run", *words.split())


@pytest.mark.parametrize("blank", ["train", "validation"])
def test_texts_without_a_token_are_refused(blank, tmp_path):
    words = []
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": " " if name == blank else "some words"}) + "\n")
        words += [f"--{name}_file", str(tmp_path / f"{name}.jsonl")]
    with pytest.raises(ValueError, match=f"The {blank} texts have no token; expected some words"):
        pretrain(tmp_path / "run", *words)


def test_validation_without_a_masked_token_is_refused(tokenizer):
    blocks = Dataset.from_dict({"input_ids": [[2, 30, 3]], "special_tokens_mask": [[1, 0, 1]]})
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1e-9)
    with pytest.raises(ValueError, match="Found no masked token in the 1 blocks of validation"):
        mask_once(blocks, collator, seed=0)
