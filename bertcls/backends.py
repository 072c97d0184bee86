"""Other engines for a trained model than torch in fp32: bf16, and ONNX Runtime on a CPU; the head stays in fp32."""

import os
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import convert_to_fp32
from huggingface_hub import snapshot_download
from torch import nn

from bertcls.layout import ONNX_FILES, POOLING_FILE
from bertcls.modeling import BertClsConfig, WindowClassifierOutput

DTYPES = {"torch": ("float32", "bfloat16"), "onnx": ("float32", "int8")}


def check_engine(backend: str, dtype: str, device: torch.device | str | None = None) -> None:
    """Refuses an engine that does not exist, and another device than the CPU for ONNX Runtime."""
    if backend not in DTYPES:
        raise ValueError(f"Found backend={backend!r}; expected one of {', '.join(DTYPES)}.")
    if dtype not in DTYPES[backend]:
        known = ", ".join(DTYPES[backend])
        raise ValueError(f"Found dtype={dtype!r} with backend={backend!r}; expected one of {known}.")
    if device is not None and torch.device(device).type != "cpu" and backend == "onnx":
        raise ValueError(f"Found device={str(device)!r} with backend={backend!r}; expected 'cpu'.")


def use_bfloat16(encoder: nn.Module) -> None:
    """Makes an encoder compute in bf16 and still give fp32."""
    encoder.to(torch.bfloat16).register_forward_hook(lambda module, inputs, output: convert_to_fp32(output))


class OnnxModel(nn.Module):
    """The model of a folder that `export_onnx` wrote, or of its copy on the Hub, called like the torch model.

    Uses as many threads as torch does. `config` is that of the same folder; `dtype` is `float32` or `int8`.
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
        """As that of `BertClsForSequenceClassification` in evaluation."""
        inputs = {name: tensor.numpy() for name, tensor in inputs.items() if name in self.names}
        inputs["window_counts"] = torch.bincount(window_example).numpy()
        found = map(torch.from_numpy, self.session.run(["logits", "window_logits", "window_vectors"], inputs))
        return WindowClassifierOutput(**dict(zip(("logits", "window_logits", "vectors"), found)))

    def from_vectors(self, vectors: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """As that of `BertClsForSequenceClassification`."""
        inputs = {"window_vectors": vectors.numpy(), "window_counts": np.array(counts)}
        return tuple(map(torch.from_numpy, self.pooling.run(["logits", "window_logits"], inputs)))


def require(*names: str, what: str = "ONNX") -> None:
    """Refuses to go on without packages that only `what` needs."""
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise ValueError(
                f"{what} needs {name}, which is not installed. Install it: pip install {' '.join(names)}"
            ) from error


def _session(path: Path):
    require("onnxruntime")
    import onnxruntime

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
