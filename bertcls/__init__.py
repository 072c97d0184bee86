"""Helpers for fine-tuning BERT-family encoders on text classification with `transformers.Trainer`.

Importing bertcls makes its model type known to transformers' Auto classes; every other name is imported on first use,
so that a service imports nothing of training.
"""

import importlib
from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModelForSequenceClassification

from bertcls.modeling import BertClsConfig, BertClsForSequenceClassification

if TYPE_CHECKING:  # for editors; the same names as below, which a test compares
    from bertcls.arguments import RecipeArguments, RunArguments
    from bertcls.audit import audit_run
    from bertcls.data.labels import label_config
    from bertcls.data.load import load_newsgroups, load_splits
    from bertcls.data.splits import arrange_splits
    from bertcls.export.onnx import export_onnx
    from bertcls.hub import push_folder
    from bertcls.inference import Prediction, TextClassifier
    from bertcls.metrics import make_compute_metrics
    from bertcls.optim import freeze, layerwise_optimizer, layerwise_parameter_groups
    from bertcls.text import clean
    from bertcls.tokenization import WindowCollator, load_tokenizer, tokenize_splits, tokenize_windows
    from bertcls.training.callbacks import training_callbacks
    from bertcls.training.finish import finish_run
    from bertcls.training.launch import run_recipe
    from bertcls.training.plan import prepare_training

AutoConfig.register("bertcls", BertClsConfig, exist_ok=True)
AutoModelForSequenceClassification.register(BertClsConfig, BertClsForSequenceClassification, exist_ok=True)

__version__ = "0.1.0"

_LAZY = {  # PEP 562: module: its public names
    "arguments": ("RecipeArguments", "RunArguments"),
    "audit": ("audit_run",),
    "data.labels": ("label_config",),
    "data.load": ("load_newsgroups", "load_splits"),
    "data.splits": ("arrange_splits",),
    "export.onnx": ("export_onnx",),
    "hub": ("push_folder",),
    "inference": ("Prediction", "TextClassifier"),
    "metrics": ("make_compute_metrics",),
    "optim": ("freeze", "layerwise_optimizer", "layerwise_parameter_groups"),
    "text": ("clean",),
    "tokenization": ("WindowCollator", "load_tokenizer", "tokenize_splits", "tokenize_windows"),
    "training.callbacks": ("training_callbacks",),
    "training.finish": ("finish_run",),
    "training.launch": ("run_recipe",),
    "training.plan": ("prepare_training",),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}

__all__ = ["BertClsConfig", "BertClsForSequenceClassification", *_MODULE_OF]


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"bertcls.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'bertcls' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
