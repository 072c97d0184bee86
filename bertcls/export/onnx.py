"""A copy of a model for ONNX Runtime and others, with all that turns tokens of windows into logits of texts inside."""

import json
import logging
import os
import shutil
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bertcls.backends import require
from bertcls.inference import TextClassifier
from bertcls.layout import EXPORT_FILES, ONNX_FILES, POOLING_FILE
from bertcls.modeling import BertClsForSequenceClassification
from bertcls.process import remove_files
from bertcls.tokenization import save_tokenizer

ONNX_TOLERANCE = 1e-4  # of a logit
OPSET = 20  # has all that is needed, and older runtimes read it
_OUTPUTS = ["logits", "window_logits"]
ONE_FILE_BYTES = 1_900_000_000  # an ONNX file ends at 2 GiB; the weights of larger models lie beside it


def export_onnx(run_dir: str, folder: str, *, int8: bool = False) -> dict:
    """Writes a model as ONNX files with its labels, contract and tokenizer beside them, and checks the answers.

    `model.onnx` takes `input_ids`, `attention_mask` and, where the tokenizer has them, `token_type_ids`
    `[windows, tokens]`, and `window_counts` `[texts]`, the number of windows of each text, in order: all int64. It
    gives `logits` `[texts, num_labels]`, `window_logits` `[windows, num_labels]` and `window_vectors`
    `[windows, hidden]`. `pooling.onnx` goes from `window_vectors` and `window_counts` to the first two, for texts of
    too many windows for one run. The temperature is not applied; it stands in `config.json`.

    `run_dir` is the folder of a run, or its copy on the Hub; an earlier export in `folder` is replaced. With `int8`
    there is `model_int8.onnx` too, whose encoder has int8 weights in its linear layers. Gives the largest `difference`
    that was found in a logit, with int8 also `int8_difference`.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a logit differs by more than 1e-4, the encoder cannot be exported, `folder` holds other files, or a
            package is not installed. Then `folder` is as it was.
    """
    target = Path(folder)
    if not target.name:
        raise ValueError(f"Found the folder {folder} for an export; expected one that may be replaced. Name it.")
    target = target.resolve()  # what a link leads to is replaced
    require("onnx", "onnxscript", "onnxruntime")
    present = {path.name for path in target.iterdir()} if target.is_dir() else set()
    others = sorted(present - EXPORT_FILES)[:3]
    if present and ONNX_FILES["float32"] not in present:
        others.append(f"no {ONNX_FILES['float32']}")  # a tokenizer's folder, say
    if target.is_file() or others:
        what = f"holds {', '.join(others)}" if others else "is a file"
        raise ValueError(f"{folder} {what}; expected a new folder, or an earlier export, for the ONNX files.")
    classifier = TextClassifier.from_pretrained(run_dir, device="cpu")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}-{os.getpid()}")
    unfinished.mkdir()
    try:
        with ExitStack() as stack:  # without the exporters' lines about packages that are not needed
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            _write(classifier, unfinished, int8)
        facts = {"difference": _difference(classifier, unfinished, "float32")}
        if not facts["difference"] <= ONNX_TOLERANCE:
            raise ValueError(
                f"The ONNX export of {run_dir} differs from the model by {facts['difference']:.2g} in a logit; "
                f"expected at most {ONNX_TOLERANCE:.0e}. Nothing was written to {folder}; the model is whole."
            )
        if int8:
            facts["int8_difference"] = _difference(classifier, unfinished, "int8")
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return facts


def remove_export(folder: Path) -> None:
    """Takes away what `export_onnx` wrote, and the folder where nothing else is in it."""
    if (folder / POOLING_FILE).is_file():
        remove_files(folder, EXPORT_FILES)


def _write(classifier: TextClassifier, folder: Path, int8: bool) -> None:
    model, tokenizer = classifier.model, classifier.tokenizer
    names = [name for name in classifier.collator.padding if name in tokenizer.model_input_names]
    # Of five windows of eight tokens, the middle three of one text; their values do not matter.
    inputs = {name: torch.full((5, 8), int(name != "token_type_ids")) for name in names}
    counts, vectors = torch.tensor([1, 3, 1]), torch.zeros(5, model.config.hidden_size)
    texts, windows, tokens = {0: "texts"}, {0: "windows"}, {0: "windows", 1: "tokens"}
    graph = _Documents(model), (inputs, counts), (dict.fromkeys(names, tokens), texts), [*names, "window_counts"]
    _export(folder / ONNX_FILES["float32"], *graph, [*_OUTPUTS, "window_vectors"])
    graph = _Pooling(model), (vectors, counts), (windows, texts), ["window_vectors", "window_counts"]
    _export(folder / POOLING_FILE, *graph, _OUTPUTS)
    if int8:
        _quantize(folder)
    config = model.config.to_diff_dict() | {"id2label": model.config.id2label, "max_length": classifier.max_length}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder)


def _export(path: Path, module: nn.Module, inputs: tuple, shapes: tuple, names: list[str], outputs: list[str]) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    options = {"input_names": names, "output_names": outputs, "dynamic_shapes": shapes, "opset_version": OPSET}
    try:
        program = torch.onnx.export(module.eval(), inputs, **options, dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        kind, why = module.model.config.encoder.model_type, str(error).splitlines()[0]
        raise ValueError(
            f"torch cannot export a {kind} encoder to ONNX ({why}); expected one like BERT. Use the torch backend."
        ) from error
    ClearMetadataAndDocStringPass()(program.model)  # stack traces with the paths of this machine
    program.save(path, external_data=sum(weights.nbytes for weights in module.parameters()) > ONE_FILE_BYTES)


def _quantize(folder: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(folder / ONNX_FILES["float32"])
    model.graph.ClearField("value_info")  # the quantizer transposes weights, and then trips over their old shapes
    # The linear layers of the head and the pooler are Gemm, which the quantizer renames and takes too.
    head = [f"{node.name}_MatMul" for node in model.graph.node if node.op_type == "Gemm"]
    layers = {"op_types_to_quantize": ["MatMul"], "nodes_to_exclude": head}  # the encoder's linear ones
    options = {"per_channel": True, "weight_type": QuantType.QInt8, **layers}
    large = any(folder.glob("*.data"))
    quantize_dynamic(model, folder / ONNX_FILES["int8"], use_external_data_format=large, **options)


def _difference(classifier: TextClassifier, folder: Path, dtype: str) -> float:
    """The largest one in a logit of a text or a window, of texts alone and together, and of documents at once.

    The texts are of random word pieces: none, one, a few, half a window, three windows.
    """
    config, tokenizer, random = classifier.model.config, classifier.tokenizer, np.random.default_rng(0)
    pieces = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    lengths = (0, 1, 12, classifier.max_length // 2, 3 * classifier.max_length)
    texts = [tokenizer.decode(random.choice(pieces, length)) for length in lengths]
    texts = [("Is it?", text) for text in texts] if config.pair_truncation is not None else texts
    exported, found = TextClassifier.from_pretrained(str(folder), backend="onnx", dtype=dtype), []
    for batch in [*([text] for text in texts), texts]:
        logits, windows = classifier.logits_with_windows(batch)
        other_logits, other_windows = exported.logits_with_windows(batch)
        inputs = exported.collator([one.columns for one in exported.encode(batch)])
        pooled = exported.model(**inputs, return_window_logits=True).logits.numpy()  # in model.onnx itself
        found += [np.abs(logits - others).max() for others in (other_logits, pooled)]
        found += [np.abs(rows - others).max() for rows, others in zip(windows, other_windows)]
    return float(np.max(found)) / config.label_scale  # which is of a regression


class _Pooling(nn.Module):
    """From window vectors to logits, as `BertClsForSequenceClassification` does.

    With what ONNX has: a batch size that is the size of an input, and sums in place of `scatter_reduce` with `mean`,
    which the exporter turns into an overwriting scatter without a word (onnxscript 0.7.2).
    """

    def __init__(self, model: BertClsForSequenceClassification):
        super().__init__()
        self.model = model

    def forward(self, window_vectors: torch.Tensor, window_counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        how, head, texts = self.model.config.window_pooling, self.model.head, window_counts.shape[0]
        if how in ("mean", "max"):
            pooled = _reduce(window_vectors, window_counts, how)
            # through the head at once: ONNX Runtime's quantizer breaks weights that two layers share (1.31)
            logits = head(torch.cat([pooled, window_vectors]))
            return logits[:texts], logits[texts:]
        window_logits = head(window_vectors)  # [windows, num_labels]
        add_up = partial(_reduce, window_counts=window_counts, how="sum")
        return self.model.pool_probabilities(window_logits, add_up), window_logits


class _Documents(_Pooling):
    """From tokens to logits."""

    def forward(self, inputs: dict[str, torch.Tensor], window_counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        vectors = self.model.encode_windows(inputs)
        return *super().forward(vectors, window_counts), vectors


def _reduce(values: torch.Tensor, window_counts: torch.Tensor, how: str) -> torch.Tensor:
    """`[windows, width]` to `[texts, width]` by the `mean`, `max` or `sum` of each text's windows."""
    ends = window_counts.cumsum(0)
    text_of = (torch.arange(values.shape[0]).unsqueeze(-1) >= ends).sum(-1)  # [windows]
    index, shape = text_of.unsqueeze(-1).expand_as(values), (window_counts.shape[0], values.shape[1])
    if how == "max":
        return values.new_full(shape, torch.finfo(values.dtype).min).scatter_reduce(0, index, values, "amax")
    total = values.new_zeros(shape).scatter_add(0, index, values)
    return total if how == "sum" else total / window_counts.unsqueeze(-1)
