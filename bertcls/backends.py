"""Other ways to run a trained model than torch in fp32: bf16 and int8 on a CPU, and ONNX Runtime.

In all of them the head, the pooling of windows and everything behind the logits compute in fp32.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from torch import nn

from bertcls.layout import ONNX_FILES, POOLING_FILE
from bertcls.modeling import BertClsConfig, WindowClassifierOutput

DTYPES = {"torch": ("float32", "bfloat16", "int8"), "onnx": ("float32", "int8")}


def check_engine(backend: str, dtype: str, device: torch.device | str | None = None) -> None:
    """Refuses an engine that does not exist.

    Args:
        backend: `torch` or `onnx`.
        dtype: `float32`, `int8` or, with torch, `bfloat16`.
        device: that was asked for; ONNX Runtime and int8 are for the CPU.

    Raises:
        ValueError: no such engine.

    >>> check_engine("onnx", "bfloat16")
    Traceback (most recent call last):
    ValueError: Found dtype='bfloat16' with backend='onnx'; expected one of float32, int8.
    """
    if backend not in DTYPES:
        raise ValueError(f"Found backend={backend!r}; expected one of {', '.join(DTYPES)}.")
    if dtype not in DTYPES[backend]:
        raise ValueError(
            f"Found dtype={dtype!r} with backend={backend!r}; expected one of {', '.join(DTYPES[backend])}."
        )
    if device is not None and torch.device(device).type != "cpu" and on_cpu_only(backend, dtype):
        raise ValueError(f"Found device={str(device)!r} with backend={backend!r}, dtype={dtype!r}; expected 'cpu'.")


def on_cpu_only(backend: str, dtype: str) -> bool:
    """Whether an engine runs on the CPU alone."""
    return backend == "onnx" or dtype == "int8"


def convert_encoder(encoder: nn.Module, dtype: str) -> nn.Module:
    """An encoder that computes in another type and still gives fp32.

    Args:
        encoder: in fp32, in evaluation mode, on its device; it is changed.
        dtype: `bfloat16`, weights and activations; or `int8`, the weights of the linear layers and, with a scale that
            each forward takes anew from all its texts, what goes into them.

    Returns:
        the encoder.
    """
    if dtype == "int8":
        with warnings.catch_warnings():  # torch.ao is to leave torch some day; its range in pyproject.toml has it
            warnings.simplefilter("ignore")
            # a scale a row of a weight: with one for all, twice as far from fp32 and no faster (all-MiniLM-L6-v2)
            settings = {nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
            return torch.ao.quantization.quantize_dynamic(encoder, settings)
    encoder.to(torch.bfloat16).register_forward_hook(_outputs_to_float32)
    return encoder


def _outputs_to_float32(module: nn.Module, inputs: tuple, output: dict) -> dict:
    for name, value in output.items():
        if isinstance(value, torch.Tensor):
            output[name] = value.float()
    return output


class OnnxModel(nn.Module):
    """The model of a folder that `export_onnx` wrote, run by ONNX Runtime on the CPU; called like the torch model.

    Uses as many threads as torch does.

    Args:
        name_or_path: the folder, or its copy on the Hub.
        config: of the same folder.
        dtype: `float32`, or `int8` where it was exported too.
        revision: Hub revision.

    Raises:
        FileNotFoundError: no such file in the folder.
        ValueError: the file is no export of a bertcls model, or onnxruntime is not installed.
    """

    def __init__(
        self, name_or_path: str, config: BertClsConfig, *, dtype: str = "float32", revision: str | None = None
    ):
        super().__init__()
        folder = name_or_path
        if not os.path.isdir(folder):
            folder = snapshot_download(name_or_path, revision=revision, allow_patterns=["*.onnx", "*.onnx.data"])
        self.config = config
        self.path = Path(folder, ONNX_FILES[dtype])
        self.session = _session(self.path)
        self.pooling = _session(Path(folder, POOLING_FILE))
        self.names = [put.name for put in self.session.get_inputs()]
        if not {"input_ids", "window_counts"} <= set(self.names):
            raise ValueError(
                f"{self.path} has the inputs {', '.join(self.names)}, expected input_ids and "
                "window_counts among them: a file that recipes/export_onnx.py wrote. Export the run again."
            )

    def forward(
        self, window_example: torch.Tensor, return_window_logits: bool = False, **inputs: torch.Tensor
    ) -> WindowClassifierOutput:
        """As `BertClsForSequenceClassification.forward`, but without a loss.

        Runs `windows_per_forward` windows at a time, like the torch model.
        """
        counts = torch.bincount(window_example).numpy()
        inputs = {name: tensor.numpy() for name, tensor in inputs.items() if name in self.names}
        step = self.config.windows_per_forward
        if len(window_example) <= step:
            logits, window_logits = self.session.run(["logits", "window_logits"], {**inputs, "window_counts": counts})
        else:
            vectors = []
            for start in range(0, len(window_example), step):
                part = {name: array[start : start + step] for name, array in inputs.items()}
                part["window_counts"] = np.ones(len(part["input_ids"]), np.int64)
                vectors += self.session.run(["window_vectors"], part)
            logits, window_logits = self.pooling.run(
                ["logits", "window_logits"], {"window_vectors": np.concatenate(vectors), "window_counts": counts}
            )
        return WindowClassifierOutput(
            logits=torch.from_numpy(logits),
            window_logits=torch.from_numpy(window_logits) if return_window_logits else None,
        )


def _session(path: Path):
    """An `onnxruntime.InferenceSession` of a file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            "The backend 'onnx' needs onnxruntime, which is not installed. Install it: pip install onnxruntime"
        ) from error
    if not path.is_file():
        int8 = " --int8" if path.name == ONNX_FILES["int8"] else ""
        raise FileNotFoundError(
            f"{path.parent} holds no {path.name}; expected a folder that was written by: "
            f"python recipes/export_onnx.py --model_name_or_path RUN{int8}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own classes have no other base
        raise ValueError(
            f"{path} does not load ({str(error).splitlines()[0]}); expected a file that recipes/export_onnx.py wrote. "
            "Export the run again."
        ) from error
