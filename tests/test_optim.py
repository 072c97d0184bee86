import pytest
import torch
from datasets import Dataset
from helpers import ENCODERS, SMALL, build
from transformers import (
    AlbertConfig,
    AutoConfig,
    DebertaV2Config,
    MegatronBertConfig,
    MPNetConfig,
    Trainer,
    TrainingArguments,
    XLMRobertaXLConfig,
)

from bertcls import freeze, layerwise_parameter_groups
from bertcls.optim import LayerwiseOptimizer, check_rates, encoder_parts
from bertcls.training.callbacks import RatesTable


def rate_of(model, **settings) -> dict[str, float]:
    groups = layerwise_parameter_groups(
        model, **{"learning_rate": 1e-3, "layer_decay": 0.5, "weight_decay": 0.1} | settings
    )
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    return {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_rates_of_a_two_layer_bert_by_hand():
    rates = rate_of(build(pooling="pooler", classifier_hidden_size=8))
    expected = {
        "classifier.": 1e-3,
        "dense.": 1e-3,
        "encoder.pooler.": 5e-4,
        "encoder.encoder.layer.1.": 5e-4,
        "encoder.encoder.layer.0.": 2.5e-4,
        "encoder.embeddings.": 1.25e-4,
    }
    for name, rate in rates.items():
        assert [value for prefix, value in expected.items() if name.startswith(prefix)] == [rate], name


def test_head_learning_rate_changes_the_head_alone():
    plain, other = rate_of(build()), rate_of(build(), head_learning_rate=7e-3)
    assert {name for name in plain if plain[name] != other[name]} == {"classifier.weight", "classifier.bias"}
    assert other["classifier.weight"] == 7e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_is_in_exactly_one_group(name):
    model = build(encoder=ENCODERS[name])
    groups = layerwise_parameter_groups(model, learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1)
    placed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(placed) == sorted(id(parameter) for parameter in model.parameters())
    assert groups[0]["depth"] == 0  # Trainer logs the rate of the first group
    assert {group["depth"] for group in groups} == {0, 1, 2, 3}
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    for group in groups:
        keys = [names[id(parameter)].lower() for parameter in group["params"]]
        undecayed = [key for key in keys if "bias" in key or "norm" in key]
        assert undecayed == (keys if group["weight_decay"] == 0 else [])
        assert group["lr"] == 1e-3 * 0.5 ** group["depth"]
    embedded = [group["depth"] for group in groups for p in group["params"] if "embeddings" in names[id(p)]]
    assert embedded and set(embedded) == {3}


def test_freezing_layers():
    model = build(encoder=AutoConfig.for_model("bert", **SMALL), pooling="pooler")
    freeze(model, freeze_layers=1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if "embeddings" in n or "layer.0." in n}
    assert set(rate_of(model)) == {name for name, _ in model.named_parameters()} - frozen


def test_freezing_everything_below_the_head():
    model = build(encoder=AutoConfig.for_model("bert", **SMALL))
    freeze(model, freeze_encoder=True)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    all_layers = build(encoder=AutoConfig.for_model("bert", **SMALL), pooling="pooler")
    freeze(all_layers, freeze_layers=2)
    assert {n.split(".")[1] for n, p in all_layers.named_parameters() if p.requires_grad and "encoder" in n} == {
        "pooler"
    }


@pytest.mark.parametrize("layers", [3, -1])
def test_freezing_layers_that_are_not_there(layers):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        freeze(build(), freeze_layers=layers)


def test_shared_layers_cannot_be_told_apart():
    config = AlbertConfig(**SMALL, embedding_size=16)
    with pytest.raises(ValueError, match="has no list of 2 layers"):
        encoder_parts(build(encoder=config, pooling="pooler").encoder)


def test_a_rate_of_the_head_alone_needs_no_layers():
    model = build(encoder=AlbertConfig(**SMALL, embedding_size=16), pooling="pooler")
    rates = rate_of(model, layer_decay=1.0, head_learning_rate=7e-3)
    assert {name for name in rates if rates[name] == 7e-3} == {"classifier.weight", "classifier.bias"}
    assert set(rates.values()) == {1e-3, 7e-3}
    optimizer = layerwise_optimizer_of(model, layer_decay=1.0, head_learning_rate=7e-3)
    assert [line.split()[:2] for line in check_rates(model, optimizer).splitlines()[1::2]] == [
        ["0", "head"],
        ["1", "encoder"],
    ]


@pytest.mark.parametrize(
    ("config", "first", "last"),
    [
        (MegatronBertConfig(**SMALL), [], ["encoder.ln"]),
        (XLMRobertaXLConfig(**SMALL), [], ["encoder.LayerNorm"]),
        (MPNetConfig(**SMALL), ["encoder.relative_attention_bias"], []),
        (
            DebertaV2Config(**SMALL, relative_attention=True, norm_rel_ebd="layer_norm", conv_kernel_size=3),
            ["encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv.conv", "encoder.conv.LayerNorm"],
            [],
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_parts_beside_the_layers(config, first, last):
    encoder = build(encoder=config, pooling="mean").encoder
    parts = encoder_parts(encoder)
    names = {name.rpartition(".")[0] for name, _ in encoder.named_parameters()}
    beside = {name for name in names if not name.startswith((parts.layers_name, "embeddings"))}
    assert beside == {*first, *last}
    assert all(parts.layer(f"{name}.weight") == -1 for name in first)
    assert all(parts.layer(f"{name}.weight") == 2 for name in last)


@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_a_wrong_decay_is_refused(decay):
    with pytest.raises(ValueError, match="expected more than 0 and at most 1"):
        rate_of(build(), layer_decay=decay)


def test_the_factory_keeps_the_optimizer_that_was_asked_for(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, optim="adamw_torch", adam_beta2=0.9, learning_rate=1e-3)
    optimizer = LayerwiseOptimizer()(build(), args=args, layer_decay=0.5)
    assert type(optimizer) is torch.optim.AdamW
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.9)}
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_a_made_optimizer_is_described_by_hand():
    model = build(pooling="pooler")
    table = check_rates(model, layerwise_optimizer_of(model)).splitlines()
    assert [line.split()[:2] for line in table[1::2]] == [
        ["0", "head"],
        ["1", "layer"],
        ["2", "layer"],
        ["3", "embeddings"],
    ]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert table[1].split() == ["0", "head", "1.00e-03", "0.1", str(sizes["classifier.weight"])]
    words = sum(size for name, size in sizes.items() if "embeddings" in name and "Norm" not in name)
    assert table[7].split() == ["3", "embeddings", "1.25e-04", "0.1", f"{words:,}"]
    assert sum(int(line.split()[-1].replace(",", "")) for line in table[1:]) == sum(sizes.values())


def layerwise_optimizer_of(model, **settings) -> torch.optim.Optimizer:
    groups = {"learning_rate": 1e-3, "layer_decay": 0.5, "weight_decay": 0.1} | settings
    return torch.optim.AdamW(layerwise_parameter_groups(model, **groups))


def without_the_embeddings(model) -> list[dict]:
    """The lab's: layers were numbered from 0 to n - 1, so that the embeddings and the last layer were left out."""
    return [{"params": [p for n, p in model.named_parameters() if "embeddings" not in n], "lr": 1e-3}]


def without_the_pooler(model) -> list[dict]:
    return [{"params": [p for n, p in model.named_parameters() if "pooler" not in n], "lr": 1e-3}]


def twice(model) -> list[dict]:
    """An optimizer itself warns of this, but only within one group."""
    groups = layerwise_optimizer_of(model).param_groups
    groups[0]["params"] = groups[0]["params"] + groups[-1]["params"][:1]
    return groups


def upside_down(model) -> list[dict]:
    """The lab's: the lowest layer had the highest rate."""
    groups = layerwise_optimizer_of(model).param_groups
    rates = sorted({group["lr"] for group in groups})
    for group in groups:
        if group["depth"]:
            group["lr"] = rates[group["depth"] - 1]
    return groups


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (without_the_embeddings, "holds the parameter encoder.embeddings.word_embeddings.weight 0 times"),
        (without_the_pooler, "holds the parameter encoder.pooler.dense.weight 0 times"),
        (twice, "2 times; expected every trainable parameter in exactly one group"),
        (upside_down, "expected rates that do not rise towards the embeddings"),
    ],
)
def test_wrong_groups_stop_a_training_before_its_first_step(groups, message, tmp_path):
    model = build(pooling="pooler")
    optimizer = torch.optim.AdamW(without_the_embeddings(model), lr=1e-3)
    optimizer.param_groups = groups(model)
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, report_to="none", remove_unused_columns=False),
        train_dataset=Dataset.from_dict({"input_ids": [[5, 6]] * 4, "labels": [0, 1, 0, 1]}),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        callbacks=[RatesTable()],
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ENCODERS)
def test_right_groups_pass_for_every_family_also_frozen(name):
    model = build(encoder=ENCODERS[name])
    check_rates(model, layerwise_optimizer_of(model))
    freeze(model, freeze_layers=1)
    check_rates(model, layerwise_optimizer_of(model))


def test_a_model_without_an_encoder_is_checked_too():
    model = torch.nn.Linear(2, 2)
    assert len(check_rates(model, torch.optim.SGD(model.parameters(), lr=0.1)).splitlines()) == 2
    with pytest.raises(ValueError, match="holds the parameter bias 0 times"):
        check_rates(model, torch.optim.SGD([model.weight], lr=0.1))
