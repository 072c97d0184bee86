import pytest
import torch
from conftest import SAMPLE
from datasets import load_dataset
from torch import nn
from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward as stock

from bertcls import BertClsForSequenceClassification
from bertcls.training import cpu
from bertcls.training.cpu import CpuDropout, FastOnCpu, attention_with_dropout

ENCODER = SAMPLE.parent / "encoder"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    values = torch.ones(401, 1003, dtype=dtype, requires_grad=True)
    found = CpuDropout(p)(values)
    share = float((found == 0).float().mean())
    assert abs(share - p) < 4 * (p * (1 - p) / values.numel()) ** 0.5
    assert len(found.unique()) == 2  # dropped, or scaled
    assert float(found.detach().double().mean()) == pytest.approx(1, abs=0.005)
    found.sum().backward()
    assert torch.equal(values.grad == 0, found == 0)  # the gradient goes where the value went
    rows, columns = (found == 0).float().mean(1), (found == 0).float().mean(0)
    assert float(rows.std()) < 1.3 * (p * (1 - p) / 1003) ** 0.5  # independent within and across rows
    assert float(columns.std()) < 1.3 * (p * (1 - p) / 401) ** 0.5


def test_dropout_of_all_of_none_and_outside_training():
    values = torch.randn(5, 7)
    assert torch.equal(CpuDropout(0.0)(values), values)
    assert torch.equal(CpuDropout(1.0)(values), torch.zeros(5, 7))
    assert torch.equal(CpuDropout(0.5).eval()(values), values)


def test_the_global_generator_repeats_what_is_dropped():
    dropout, values = CpuDropout(0.3), torch.ones(33)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = dropout(values), dropout(values)
    torch.set_rng_state(state)
    assert torch.equal(dropout(values), first) and not torch.equal(first, second)


def heads(dtype=torch.float32, windows=3, tokens=17) -> list[torch.Tensor]:
    return [torch.randn(windows, 4, tokens, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


def padding(windows=3, tokens=17) -> torch.Tensor:
    """Added to the scores; the second window has 5 tokens."""
    mask = torch.zeros(windows, 1, tokens, tokens)
    mask[1, ..., 5:] = torch.finfo(torch.float32).min
    return mask


@pytest.mark.parametrize("mask", [None, padding()])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_attention_of_a_vanishing_dropout_is_that_of_sdpa(mask, scaling):
    torch.manual_seed(0)
    parts = heads()
    expected, _ = attention_with_dropout(nn.Module(), *parts, mask, scaling, dropout=0.0)
    stock = nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scaling).transpose(1, 2)
    found, _ = attention_with_dropout(nn.Module(), *parts, mask, scaling, dropout=1e-9)
    assert torch.equal(expected, stock)
    assert found.shape == (3, 17, 4, 8) and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), parts), torch.autograd.grad(expected.sum(), parts)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_attention_drops_weights_and_keeps_their_mean():
    torch.manual_seed(0)
    query, key, _ = heads(windows=1, tokens=16)
    value = torch.eye(16)[None, None].expand(1, 4, 16, 16)  # the result is the weights
    expected = (query @ key.transpose(2, 3) * 8**-0.5).softmax(-1).transpose(1, 2)
    turns = torch.stack(
        [attention_with_dropout(nn.Module(), query, key, value, None, dropout=0.25)[0] for _ in range(400)]
    )
    assert float((turns == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(turns.mean(0), expected, rtol=0.2, atol=0.02)


def test_attention_leaves_to_sdpa_what_it_does_not_know():
    torch.manual_seed(0)
    parts, bias = heads(), 100 * torch.eye(17)[None, None]  # each token reads itself alone
    found, _ = attention_with_dropout(nn.Module(), *parts, None, dropout=1e-9, position_bias=bias)
    torch.testing.assert_close(found, parts[2].transpose(1, 2))


def test_bf16_weights_are_dropped_in_bf16():
    found, _ = attention_with_dropout(nn.Module(), *heads(torch.bfloat16), padding(), dropout=0.1)
    assert found.dtype == torch.bfloat16


@pytest.mark.parametrize("tokens, plain", [(17, True), (300, False)])
def test_bf16_without_dropout_takes_plain_products(tokens, plain, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    exact, mask, calls = heads(tokens=tokens), padding(tokens=tokens), []
    monkeypatch.setattr(cpu, "sdpa_attention_forward", lambda *args, **kw: calls.append(1) or stock(*args, **kw))
    rounded = [part.detach().bfloat16().requires_grad_() for part in exact]
    found, _ = attention_with_dropout(nn.Module(), *rounded, mask.bfloat16(), None, dropout=0.0)
    assert bool(calls) != plain
    expected = nn.functional.scaled_dot_product_attention(*exact, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)
    for ours, theirs in zip(torch.autograd.grad(found.sum(), rounded), torch.autograd.grad(expected.sum(), exact)):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.1)
    with torch.no_grad():
        attention_with_dropout(nn.Module(), *[part.detach() for part in rounded], mask.bfloat16(), None, dropout=0.0)
    assert len(calls) == 2 - plain  # without a gradient SDPA is as fast


def test_padded_tokens_are_not_read(encoder_folder):
    model = AutoModel.from_pretrained(encoder_folder).eval()
    ids = torch.randint(5, 20, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    found = {}
    for name in ("sdpa", "attention_with_dropout"):
        model.set_attn_implementation(name)
        for layer in model.encoder.layer:  # so that the weights are dropped, of which none is
            layer.attention.self.dropout.p = 1e-9
            layer.attention.self.train()
        with torch.no_grad():
            found[name] = model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(found["attention_with_dropout"], found["sdpa"], rtol=0, atol=1e-5)


class Kinds(FastOnCpu):
    """Records what the model has while it trains."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        dropouts = {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}
        self.seen = dropouts, model.config.encoder._attn_implementation


@pytest.mark.slow
@pytest.mark.parametrize("attention_dropout, attention", [(None, "attention_with_dropout"), (0.0, "sdpa")])
def test_a_model_is_fast_while_it_trains_and_as_it_was_afterwards(
    encoder_folder, tmp_path, attention_dropout, attention
):
    model = BertClsForSequenceClassification.from_encoder(
        encoder_folder, num_labels=2, attention_dropout=attention_dropout
    )
    kinds = Kinds()
    rows = [{"input_ids": torch.arange(5, 15), "attention_mask": torch.ones(10, dtype=int), "labels": 1}] * 8
    args = TrainingArguments(str(tmp_path), use_cpu=True, max_steps=2, save_strategy="no", disable_tqdm=True)
    Trainer(model, args, train_dataset=rows, callbacks=[kinds]).train()
    assert kinds.seen == ({CpuDropout}, attention)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Dropout)} == {nn.Dropout}
    assert model.config.encoder._attn_implementation == "sdpa"


def test_the_gradient_of_a_whole_model_in_bf16_is_as_near_to_that_in_fp32_as_with_the_stock_attention(monkeypatch):
    monkeypatch.setattr(cpu, "has_bf16", lambda: True)
    model = BertClsForSequenceClassification.from_encoder(ENCODER, pooling="mean", num_labels=2).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = model.config.encoder
    config.attention_probs_dropout_prob = config.hidden_dropout_prob = 0.0
    rows = load_dataset(str(SAMPLE), split="train")[:32]
    inputs = AutoTokenizer.from_pretrained(ENCODER)(rows["sentence"], padding=True, return_tensors="pt")
    labels = torch.tensor(rows["label"])
    found = []
    for attention, bf16 in (("sdpa", False), ("sdpa", True), ("attention_with_dropout", True)):
        model.zero_grad()
        model.set_attn_implementation(attention)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(**{name: part[:, :96] for name, part in inputs.items()}, labels=labels).loss.backward()
        found.append(torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None]))
    exact, stock_error, own_error = found[0], *(float((part - found[0]).norm()) for part in found[1:])
    assert own_error < 1.3 * stock_error + 1e-3 * float(exact.norm())
    assert own_error < 4 * 2**-8 * float(exact.norm())  # of the rounding of a bf16
