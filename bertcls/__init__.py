"""Helpers for fine-tuning BERT-family encoders on text classification with `transformers.Trainer`.

Importing bertcls makes its model type known to transformers' Auto classes; every other name is imported on first use.
"""

import importlib

from transformers import AutoConfig, AutoModelForSequenceClassification

from bertcls.modeling import BertClsConfig, BertClsForSequenceClassification

AutoConfig.register("bertcls", BertClsConfig, exist_ok=True)
AutoModelForSequenceClassification.register(BertClsConfig, BertClsForSequenceClassification, exist_ok=True)

__version__ = "0.1.0"

_MODULE_OF = {  # PEP 562: a server that labels texts imports neither evaluate nor the data set loader
    "RecipeArguments": "arguments",
    "clear_output": "arguments",
    "one_line_errors": "arguments",
    "parse": "arguments",
    "LongestBatchFirst": "callbacks",
    "arrange_splits": "data",
    "balanced_class_weights": "data",
    "containers": "data",
    "draw_rows": "data",
    "hold_out_whole_texts": "data",
    "label_shares": "data",
    "load_splits": "data",
    "normalise": "data",
    "split_dataset": "data",
    "push_folder": "hub",
    "verify_saved": "hub",
    "Prediction": "inference",
    "TextClassifier": "inference",
    "ClassificationMetric": "metrics",
    "log_loss": "metrics",
    "make_compute_metrics": "metrics",
    "wilson_interval": "metrics",
    "LayerwiseOptimizer": "optim",
    "encoder_parts": "optim",
    "freeze": "optim",
    "layerwise_parameter_groups": "optim",
    "score_reported": "report",
    "write_results": "report",
    "clean": "text",
    "clean_batch": "text",
    "WindowCollator": "tokenization",
    "check_window": "tokenization",
    "encoder_max_length": "tokenization",
    "load_tokenizer": "tokenization",
    "tokenize_windows": "tokenization",
}

__all__ = ["BertClsConfig", "BertClsForSequenceClassification", *_MODULE_OF]


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"bertcls.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'bertcls' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
