import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from bertcls import BertClsForSequenceClassification, CpuDropout, FastOnCpu


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


class Kinds(FastOnCpu):
    """Records what the model has while it trains."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        dropouts = {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}
        self.seen = dropouts, model.config.encoder._attn_implementation


@pytest.mark.parametrize("attention_dropout, attention", [(None, "eager"), (0.0, "sdpa")])
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
