"""A copy of a model for ONNX Runtime and others, with all that turns tokens of windows into logits of texts inside."""

import json
import logging
import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bertcls.inference import Text, TextClassifier
from bertcls.layout import EXPORT_FILES, ONNX_FILES, POOLING_FILE
from bertcls.modeling import MULTI_LABEL, BertClsForSequenceClassification

ONNX_TOLERANCE = 1e-4  # of a logit
OPSET = 20  # has all that is needed, and older runtimes read it
ONE_FILE_BYTES = 1_900_000_000  # an ONNX file ends at 2 GiB; the weights of larger models lie beside it


def export_onnx(run_dir: str, folder: str, *, int8: bool = False) -> dict:
    """Writes a model as ONNX files with its labels, contract and tokenizer beside them, and checks the answers.

    `model.onnx` takes `input_ids`, `attention_mask` and, where the tokenizer has them, `token_type_ids`
    `[windows, tokens]`, and `window_counts` `[texts]`, the number of windows of each text, in order: all int64. It
    gives `logits` `[texts, num_labels]`, `window_logits` `[windows, num_labels]` and `window_vectors`
    `[windows, hidden]`. `pooling.onnx` goes from `window_vectors` and `window_counts` to the first two, for texts of
    too many windows for one run. The temperature is not applied; it stands in `config.json`.

    Args:
        run_dir: folder of a run, or its copy on the Hub.
        folder: for the copy; an earlier export there is replaced.
        int8: also write `model_int8.onnx`: int8 weights in the linear layers of the encoder.

    Returns:
        `{"difference": ...}`, the largest one found in a logit; with int8 `"int8_difference"` too.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a logit differs by more than 1e-4, the encoder cannot be exported, `folder` holds other files, or
            onnx, onnxscript or onnxruntime is not installed. Then `folder` is as it was.

    >>> export_onnx("runs/sst2", "runs/sst2/onnx")   # doctest: +SKIP
    {'difference': 2.1e-06}
    """
    _check_installed()
    target = Path(folder)
    _check_folder(target)
    classifier = TextClassifier.from_pretrained(run_dir, device="cpu")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    partial.mkdir()
    try:
        _write(classifier, partial, int8)
        facts = {"difference": _difference(classifier, partial, "float32")}
        if not facts["difference"] <= ONNX_TOLERANCE:
            raise ValueError(
                f"The ONNX export of {run_dir} differs from the model by {facts['difference']:.2g} in a logit; "
                f"expected at most {ONNX_TOLERANCE:.0e}. Nothing was written to {folder}; the model is whole."
            )
        if int8:
            facts["int8_difference"] = _difference(classifier, partial, "int8")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _check_installed() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ValueError(
                f"The export needs {name}, which is not installed. Install it: pip install onnx onnxscript onnxruntime"
            ) from error


def _check_folder(folder: Path) -> None:
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if found and ONNX_FILES["float32"] not in found:
        found.add("no " + ONNX_FILES["float32"])  # a tokenizer's folder, say
    if folder.is_file() or (others := {name for name in found if name.removesuffix(".data") not in EXPORT_FILES}):
        what = "is a file" if folder.is_file() else f"holds {', '.join(sorted(others)[:3])}"
        raise ValueError(f"{folder} {what}; expected a new folder, or an earlier export, for the ONNX files.")


def remove_export(folder: Path) -> None:
    """Takes away what `export_onnx` wrote, by name, and the folder where nothing else is in it."""
    if not (folder / POOLING_FILE).is_file():
        return  # another's
    for path in list(folder.iterdir()):
        if path.name.removesuffix(".data") in EXPORT_FILES:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _write(classifier: TextClassifier, folder: Path, int8: bool) -> None:
    model = classifier.model
    tokenized = classifier.tokenize(_texts(classifier)[:1], spans=False)
    names = [name for name in classifier.collator.padding if name in tokenized]
    # Of five windows of eight tokens, the middle three of one text; their values do not matter.
    inputs = tuple(torch.full((5, 8), int(name != "token_type_ids")) for name in names)
    counts, each = torch.tensor([1, 3, 1]), {0: "windows", 1: "tokens"}
    outputs = ["logits", "window_logits"]
    _export(
        _Documents(model, names),
        (inputs, counts),
        folder / ONNX_FILES["float32"],
        [*names, "window_counts"],
        (tuple(each for _ in names), {0: "texts"}),
        [*outputs, "window_vectors"],
    )
    _export(
        _Pooling(model),
        (torch.zeros(5, model.config.hidden_size), counts),
        folder / POOLING_FILE,
        ["window_vectors", "window_counts"],
        ({0: "windows"}, {0: "texts"}),
        outputs,
    )
    if int8:
        _quantize(folder)
    max_length = model.config.max_length or classifier.tokenizer.model_max_length
    config = model.config.to_diff_dict() | {"id2label": model.config.id2label, "max_length": max_length}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tokenizer = classifier.tokenizer
    for name in ("is_local", "local_files_only", "max_length", "stride", "truncation_strategy"):
        tokenizer.init_kwargs.pop(name, None)  # of this load, or of the last call in training
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def _export(module: nn.Module, inputs: tuple, path: Path, names: list[str], shapes: tuple, outputs: list[str]) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    size = sum(parameter.nbytes for parameter in module.parameters())
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                inputs,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            ClearMetadataAndDocStringPass()(program.model)  # stack traces with the paths of this machine
            program.save(path, external_data=size > ONE_FILE_BYTES)
    except torch.onnx.OnnxExporterError as error:
        kind = module.model.config.encoder.model_type
        raise ValueError(
            f"torch cannot export a {kind} encoder to ONNX ({str(error).splitlines()[0]}); expected one like BERT. "
            "Use the torch backend."
        ) from error


def _quantize(folder: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = folder / ONNX_FILES["float32"]
    model = onnx.load(source)
    del model.graph.value_info[
        :
    ]  # inferred anew: the quantizer transposes weights, and then trips over their old shapes
    with _quiet():
        quantize_dynamic(
            model,
            folder / ONNX_FILES["int8"],
            op_types_to_quantize=["MatMul"],  # the encoder's linear layers
            # those of the head and the pooler are Gemm, which the quantizer renames and takes too
            nodes_to_exclude=[f"{node.name}_MatMul" for node in model.graph.node if node.op_type == "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.with_name(source.name + ".data").exists(),
        )


@contextmanager
def _quiet():
    """Without the exporters' lines about packages that are not needed."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _texts(classifier: TextClassifier) -> list[Text]:
    """Texts of random word pieces: none, one, a few, half a window, three windows."""
    config, tokenizer = classifier.model.config, classifier.tokenizer
    random = np.random.default_rng(0)
    pieces = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    max_length = config.max_length or tokenizer.model_max_length
    lengths = (0, 1, 12, max_length // 2, 3 * max_length)
    texts = [tokenizer.decode(random.choice(pieces, length)) for length in lengths]
    return [("Is it?", text) for text in texts] if config.pair_truncation is not None else texts


def _difference(classifier: TextClassifier, folder: Path, dtype: str) -> float:
    """The largest one in a logit, of a text or a window.

    Texts are run alone, together, and with more windows than one run takes.
    """
    exported = TextClassifier.from_pretrained(str(folder), backend="onnx", dtype=dtype)
    texts, found = _texts(classifier), []
    for batch, at_a_time in [*(([text], 64) for text in texts), (texts, 64), (texts, 2)]:
        exported.model.config.windows_per_forward = at_a_time
        logits, windows = classifier.logits_with_windows(batch, windows=True)
        other_logits, other_windows = exported.logits_with_windows(batch, windows=True)
        found.append(np.abs(logits - other_logits).max())
        found += [np.abs(rows - others).max() for (rows, _), (others, _) in zip(windows, other_windows)]
    return float(np.max(found)) / classifier.model.config.label_scale  # which is of a regression


class _Pooling(nn.Module):
    """From window vectors to logits, as `BertClsForSequenceClassification` does.

    Written anew with what ONNX has: a batch size that is the size of an input, and sums in place of `scatter_reduce`
    with `mean`, which the exporter turns into an overwriting scatter without a word (onnxscript 0.7.2).
    """

    def __init__(self, model: BertClsForSequenceClassification):
        super().__init__()
        self.model = model

    def forward(self, window_vectors: torch.Tensor, window_counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        how, head = self.model.config.window_pooling, self.model.head
        if how in ("mean", "max"):
            # through the head at once: ONNX Runtime's quantizer breaks weights that two layers share (1.31)
            texts = window_counts.shape[0]
            logits = head(torch.cat([_reduce(window_vectors, window_counts, how), window_vectors]))
            return logits[:texts], logits[texts:]
        window_logits = head(window_vectors)  # [windows, num_labels]
        multi_label = self.model.config.problem_type == MULTI_LABEL
        probabilities = window_logits.sigmoid() if multi_label else window_logits.softmax(-1)
        mean = _reduce(probabilities, window_counts, "mean")  # [texts, num_labels]
        if multi_label:
            return torch.logit(mean, eps=1e-7), window_logits
        if how == "vote":
            best = probabilities.argmax(-1, keepdim=True)
            votes = (torch.arange(probabilities.shape[-1]) == best).to(mean.dtype)
            windows = window_counts.unsqueeze(-1)
            mean = (_reduce(votes, window_counts, "mean") * windows + mean) / (windows + 1)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), window_logits


class _Documents(_Pooling):
    """From tokens to logits."""

    def __init__(self, model: BertClsForSequenceClassification, names: list[str]):
        super().__init__(model)
        self.names = names

    def forward(self, inputs: tuple[torch.Tensor, ...], window_counts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        vectors = self.model.encode_windows(dict(zip(self.names, inputs)))
        return *super().forward(vectors, window_counts), vectors


def _reduce(values: torch.Tensor, window_counts: torch.Tensor, how: str) -> torch.Tensor:
    """`[windows, width]` to `[texts, width]` by the `mean` or `max` of each text's windows."""
    ends = window_counts.cumsum(0)
    text_of = (torch.arange(values.shape[0]).unsqueeze(-1) >= ends).sum(-1)  # [windows]
    index, shape = text_of.unsqueeze(-1).expand_as(values), (window_counts.shape[0], values.shape[1])
    if how == "max":
        return values.new_full(shape, torch.finfo(values.dtype).min).scatter_reduce(0, index, values, "amax")
    return values.new_zeros(shape).scatter_add(0, index, values) / window_counts.unsqueeze(-1)
