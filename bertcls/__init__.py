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
    "TextArguments": "arguments",
    "clear_output": "arguments",
    "one_line_errors": "arguments",
    "cores_per_process": "arguments",
    "parse": "arguments",
    "parse_options": "arguments",
    "parse_runs": "arguments",
    "audit_run": "audit",
    "audit_splits": "audit",
    "drop_leaked": "audit",
    "format_audit": "audit",
    "augment": "augmentation",
    "confident_errors": "analysis",
    "confused_pairs": "analysis",
    "sure_errors": "analysis",
    "score_with_interval": "analysis",
    "run_probes": "analysis",
    "slice_scores": "analysis",
    "slices_of": "analysis",
    "TfidfClassifier": "baseline",
    "write_card": "card",
    "LongestBatchFirst": "callbacks",
    "PaddingShare": "callbacks",
    "RatesTable": "callbacks",
    "Arm": "compare",
    "bootstrap_difference": "compare",
    "check_same_examples": "compare",
    "compare_arms": "compare",
    "load_arm": "compare",
    "verdict": "compare",
    "arrange_splits": "data",
    "balanced_class_weights": "data",
    "containers": "data",
    "draw_rows": "data",
    "hold_out": "data",
    "hold_out_whole_texts": "data",
    "label_array": "data",
    "label_names_of": "data",
    "label_shares": "data",
    "load_newsgroups": "data",
    "load_splits": "data",
    "check_task": "data",
    "problem_type_of": "data",
    "split_dataset": "data",
    "stream_rows": "data",
    "read_table": "files",
    "stream_table": "files",
    "format_p": "formats",
    "gather_findings": "findings",
    "push_folder": "hub",
    "verify_saved": "hub",
    "Prediction": "inference",
    "TextClassifier": "inference",
    "WindowPrediction": "inference",
    "texts_of": "inference",
    "ClassificationMetric": "metrics",
    "MultiLabelMetric": "metrics",
    "RegressionMetric": "metrics",
    "best_metric": "metrics",
    "correlation_interval": "metrics",
    "calibration": "metrics",
    "coverage": "metrics",
    "mean_interval": "metrics",
    "multi_label_loss": "metrics",
    "paired_permutation": "metrics",
    "fit_temperature": "metrics",
    "log_loss": "metrics",
    "make_compute_metrics": "metrics",
    "mcnemar": "metrics",
    "tune_thresholds": "metrics",
    "wilson_interval": "metrics",
    "MaskedBatches": "mlm",
    "MaskingCheck": "mlm",
    "check_masking": "mlm",
    "load_masked_lm": "mlm",
    "mask_once": "mlm",
    "masked_metrics": "mlm",
    "masked_positions_only": "mlm",
    "pack_blocks": "mlm",
    "save_encoder": "mlm",
    "LayerwiseOptimizer": "optim",
    "check_rates": "optim",
    "encoder_parts": "optim",
    "freeze": "optim",
    "layerwise_optimizer": "optim",
    "layerwise_parameter_groups": "optim",
    "check_output": "prediction",
    "check_pairs": "prediction",
    "count_rows": "prediction",
    "describe_prediction": "prediction",
    "digest_of": "prediction",
    "errors_of_rank_0": "prediction",
    "label_table": "prediction",
    "merge_parts": "prediction",
    "open_parts": "prediction",
    "parts_folder": "prediction",
    "predict_parts": "prediction",
    "start_processes": "prediction",
    "survey": "prediction",
    "score_reported": "report",
    "draw_curves": "figures",
    "write_page": "page",
    "describe_report": "report",
    "describe_scores": "report",
    "scores_before": "report",
    "write_metrics": "report",
    "write_pretraining": "report",
    "write_record": "report",
    "write_report": "report",
    "export_stock": "stock",
    "clean": "text",
    "words_of": "text",
    "check_steps": "text",
    "comparison_key": "text",
    "WindowCollator": "tokenization",
    "check_window": "tokenization",
    "count_windows": "tokenization",
    "encoder_max_length": "tokenization",
    "load_tokenizer": "tokenization",
    "describe_windows": "tokenization",
    "explode_windows": "tokenization",
    "tokenize_splits": "tokenization",
    "tokenize_windows": "tokenization",
}

__all__ = ["BertClsConfig", "BertClsForSequenceClassification", *_MODULE_OF]


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"bertcls.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'bertcls' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
