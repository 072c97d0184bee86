"""Every option of Trainer works here, is refused in one line before anything is loaded, or is passed on to what this
machine lacks; a field that a later version adds fails here until somebody says which."""

from dataclasses import fields

import pytest
import torch
from conftest import ROOT, SAMPLE, TINY
from transformers import Trainer, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import logging

from bertcls import (
    BertClsForSequenceClassification,
    RecipeArguments,
    WindowCollator,
    load_splits,
    make_compute_metrics,
    tokenize_windows,
    training_callbacks,
)
from bertcls.training.launch import parse

TESTED = {  # works: where its effect is tested
    "test_arguments.py::test_defaults_that_hang_together": "eval_strategy save_strategy eval_steps save_steps "
    "load_best_model_at_end eval_on_start do_eval",
    "test_arguments.py::test_precision_follows_the_machine_unless_told": "use_cpu bf16 fp16",
    "test_arguments.py::test_a_folder_that_is_not_empty_is_kept": "output_dir",
    "test_arguments.py::test_resuming_finds_the_last_checkpoint_and_the_folder": "resume_from_checkpoint "
    "restore_callback_states_from_checkpoint",
    "test_arguments.py::test_errors_are_metrics_of_which_less_is_better": "metric_for_best_model greater_is_better",
    "test_arguments.py::test_the_hub_token_and_the_push_are_kept_from_trainer": "push_to_hub hub_token hub_model_id "
    "hub_private_repo hub_revision",
    "training/test_equality.py::test_micro_batches_and_processes_give_the_same_step": "per_device_train_batch_size "
    "gradient_accumulation_steps max_grad_norm",
    "training/test_checkpoints.py::test_more_epochs_are_allowed_and_fewer_are_not": "num_train_epochs",
    "training/test_checkpoints.py::test_a_run_of_steps_that_had_ended_makes_no_further_one": "max_steps",
    "training/test_checkpoints.py::test_a_kill_before_the_record_is_written_leaves_an_earlier_checkpoint": ""
    "save_total_limit",
    "training/test_callbacks.py::test_length_groups_pad_little": "train_sampling_strategy",
    "training/test_callbacks.py::test_out_of_memory_names_the_remedy": "auto_find_batch_size",
    "training/test_callbacks.py::test_a_loss_that_becomes_nan_stops_the_run": "logging_nan_inf_filter logging_steps",
    "training/test_console.py::test_a_run_prints_a_line_an_epoch": "disable_tqdm",
    "recipes/test_sst2_recipe.py::test_options_have_their_effect": "lr_scheduler_type label_smoothing_factor",
    "recipes/test_sst2_recipe.py::test_trackers_get_losses_and_scores_and_the_card_its_language": "report_to",
}
EFFECTS = [  # works: trainings with many options at once, and what each did
    {
        "--learning_rate 0.002 --lr_scheduler_type cosine_with_min_lr": (
            "learning_rate",
            lambda t: rates(t)[1] > 1e-3,
        ),
        '--lr_scheduler_kwargs {"min_lr":0.0005}': ("lr_scheduler_kwargs", lambda t: rates(t)[-1] >= 5e-4),
        "--warmup_steps 1": ("warmup_steps", lambda t: rates(t)[0] == 0),
        "--optim adamw_torch": ("optim", lambda t: not group(t).get("fused")),
        "--weight_decay 0.3": ("weight_decay", lambda t: group(t)["weight_decay"] == 0.3),
        "--adam_beta1 0.8": ("adam_beta1", lambda t: group(t)["betas"][0] == 0.8),
        "--adam_beta2 0.9": ("adam_beta2", lambda t: group(t)["betas"][1] == 0.9),
        "--adam_epsilon 0.001": ("adam_epsilon", lambda t: group(t)["eps"] == 0.001),
        "--logging_strategy steps --logging_steps 1": ("logging_strategy", lambda t: len(rates(t)) == 6),
        "--include_num_input_tokens_seen true": (
            "include_num_input_tokens_seen",
            lambda t: t.state.num_input_tokens_seen > 100,
        ),
        "--skip_memory_metrics false": (
            "skip_memory_metrics",
            lambda t: any("train_mem_cpu_alloc_delta" in entry for entry in t.state.log_history),
        ),
        "--neftune_noise_alpha 5": ("neftune_noise_alpha", lambda t: t.neftune_hook_handle is not None),
        "--eval_strategy epoch --metric_for_best_model loss --eval_delay 2": (
            "eval_delay",
            lambda t: evaluated(t) == [0, 2],
        ),
        "--per_device_eval_batch_size 3": ("per_device_eval_batch_size", lambda t: len(t.get_eval_dataloader()) == 8),
        "--eval_accumulation_steps 1": ("eval_accumulation_steps", lambda t: evaluated(t) == [0, 2]),
        "--dataloader_num_workers 1": ("dataloader_num_workers", lambda t: loader(t).num_workers == 1),
        "--dataloader_persistent_workers": ("dataloader_persistent_workers", lambda t: loader(t).persistent_workers),
        "--dataloader_prefetch_factor 3": ("dataloader_prefetch_factor", lambda t: loader(t).prefetch_factor == 3),
        "--dataloader_multiprocessing_context fork": (
            "dataloader_multiprocessing_context",
            lambda t: loader(t).multiprocessing_context.get_start_method() == "fork",
        ),
        "--dataloader_in_order false": ("dataloader_in_order", lambda t: loader(t).in_order is False),
        '--accelerator_config {"even_batches":false}': (
            "accelerator_config",
            lambda t: t.accelerator.even_batches is False,
        ),
        "--seed 7": ("seed", lambda t: torch.initial_seed() == 7),
        "--data_seed 8": ("data_seed", lambda t: t.args.data_seed == 8),
        "--save_only_model": ("save_only_model", lambda t: "optimizer.pt" not in saved(t)),
        "--log_level error": ("log_level", lambda t: logging.get_verbosity() == logging.ERROR),
    },
    {
        "--optim sgd --optim_args momentum=0.7": ("optim_args", lambda t: group(t)["momentum"] == 0.7),
        "--logging_steps 4 --logging_first_step": ("logging_first_step", lambda t: len(rates(t)) == 4),
        "--torch_compile": ("torch_compile", lambda t: t.accelerator.state.dynamo_plugin.backend.value == "EAGER"),
        "--torch_compile_backend eager": ("torch_compile_backend", lambda t: t.args.torch_compile_backend == "eager"),
        "--torch_compile_mode default": (
            "torch_compile_mode",
            lambda t: t.accelerator.state.dynamo_plugin.mode == "default",
        ),
        "--debug underflow_overflow": ("debug", lambda t: t.model.classifier._forward_hooks),
    },
    {
        "--activation_checkpointing": ("activation_checkpointing", lambda t: layer(t).gradient_checkpointing),
        '--activation_checkpointing_kwargs {"use_reentrant":false}': (
            "activation_checkpointing_kwargs",
            lambda t: layer(t)._gradient_checkpointing_func.keywords == {"use_reentrant": False},
        ),
        "--full_determinism": ("full_determinism", lambda t: torch.are_deterministic_algorithms_enabled()),
    },
    {
        "--gradient_checkpointing": ("gradient_checkpointing", lambda t: layer(t).gradient_checkpointing),
        '--gradient_checkpointing_kwargs {"use_reentrant":true}': (
            "gradient_checkpointing_kwargs",
            lambda t: layer(t)._gradient_checkpointing_func.keywords == {"use_reentrant": True},
        ),
    },
]
REFUSED = {  # an example of each, and a part of the line
    "remove_unused_columns": ("true", "since a recipe computes its metrics from all logits"),
    "batch_eval_metrics": ("true", "since a recipe computes its metrics from all logits"),
    "eval_do_concat_batches": ("false", "Found --eval_do_concat_batches false; expected it left out"),
    "prediction_loss_only": ("true", "since a recipe computes its metrics from all logits"),
    "label_names": ("labels", "Found --label_names labels; expected it left out"),
    "include_for_metrics": ("inputs loss", "Found --include_for_metrics inputs loss; expected it left out"),
    "eval_use_gather_object": ("true", "since a recipe computes its metrics from all logits"),
    "bf16_full_eval": ("true", "since the evaluation after training would round the weights"),
    "fp16_full_eval": ("true", "since the evaluation after training would round the weights"),
    "do_train": (
        "false",
        "Found --do_train false; expected it left out, since --num_train_epochs 0, --eval_strategy no",
    ),
    "do_predict": ("true", "--report false are what leaves a part out"),
    "hub_strategy": ("every_save", "Found --hub_strategy every_save; expected it left out, since the finished model"),
    "hub_always_push": ("true", "since the finished model alone is pushed"),
    "dataloader_drop_last": ("true", "since rows of the evaluation would be left out, too"),
    "enable_jit_checkpoint": ("true", "since SIGTERM saves without it"),
    "ignore_data_skip": ("true", "since a run that goes on would see rows twice"),
    "length_column_name": ("tokens", "Found --length_column_name tokens; expected it left out"),
    "use_cache": ("true", "since an encoder has no cache"),
    "local_rank": ("1", "since the launcher gives it"),
    "parallelism_config": ("x", "invalid ParallelismConfig value: 'x'"),
    "use_liger_kernel": ("true", "since Liger has no kernels for these encoders"),
    "liger_kernel_config": ("x", "invalid dict value: 'x'"),
    "optim_target_modules": ("all", "Found --optim_target_modules without an --optim that projects"),
    "run_name": ("x", "Found --run_name without --report_to; expected both"),
    "project": ("x", "Found --project without --report_to trackio"),
    "trackio_space_id": ("x", "Found --trackio_space_id without --report_to trackio"),
    "trackio_bucket_id": ("x", "Found --trackio_bucket_id without --report_to trackio"),
    "trackio_static_space_id": ("x", "Found --trackio_static_space_id without --report_to trackio"),
    "deepspeed": ("x.json", "The options of Trainer cannot be used here: .*deepspeed"),
    "tf32": ("true", "--tf32 requires Ampere"),
}
PASSED = {  # on to what is not here
    "several processes": "average_tokens_across_devices ddp_find_unused_parameters ddp_bucket_cap_mb ddp_static_graph "
    "ddp_broadcast_buffers ddp_backend ddp_timeout fsdp fsdp_config log_level_replica",
    "several machines": "log_on_each_node save_on_each_node",
    "an accelerator": "torch_empty_cache_steps dataloader_pin_memory",
}


FIELDS = {one.name for one in fields(TrainingArguments)}  # in this version of transformers


def words_of(options: str) -> list[str]:
    return options.split(" ")


def skip_without(*names: str) -> None:
    if not FIELDS >= {*names}:
        pytest.skip("not in this version of transformers")


def test_every_option_of_trainer_works_or_is_refused():
    works = [name for names in TESTED.values() for name in names.split()]
    works += [name for run in EFFECTS for name, _ in run.values()]
    passed = [name for names in PASSED.values() for name in names.split()]
    known = [*works, *REFUSED, *passed]
    assert len(known) == len({*known})
    assert FIELDS - {*known} == set(), "say of each of these what it does here"
    assert len({*known} - FIELDS) < 8, "too many for fields of other versions"
    for place in TESTED:
        path, test = place.split("::")
        assert f"\ndef {test}(" in (ROOT / "tests" / path).read_text(), place


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(name, tmp_path):
    skip_without(name)
    value, message = REFUSED[name]
    if name == "tf32" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ValueError, match=message) as caught:
        parse(RecipeArguments, [f"--{name}", *value.split(), "--output_dir", str(tmp_path / "run")], defaults={})
    assert "\n" not in str(caught.value).strip() and not (tmp_path / "run").exists()


MEANINGLESS = {
    "--num_train_epochs -1": "Found --num_train_epochs -1; expected 0 or more. Correct it.",
    "--num_train_epochs nan": "Found --num_train_epochs nan; expected 0 or more",
    "--learning_rate -0.1": "Found --learning_rate -0.1; expected 0 or more",
    "--learning_rate inf": "Found --learning_rate inf; expected 0 or more",
    "--adam_beta1 1.5": "Found --adam_beta1 1.5; expected 0 to 1",
    "--label_smoothing_factor 2": "Found --label_smoothing_factor 2; expected 0 to 1",
    "--per_device_train_batch_size 0": "Found --per_device_train_batch_size 0; expected 1 or more",
    "--gradient_accumulation_steps 0": "Found --gradient_accumulation_steps 0; expected 1 or more",
    "--dataloader_num_workers -1": "Found --dataloader_num_workers -1; expected 0 or more",
    "--eval_steps -2": "Found --eval_steps -2; expected above 0",
    "--seed -1": "Found --seed -1; expected 0 to 4294967295",
    '--lr_scheduler_kwargs {"cycles":2}': r"Found --lr_scheduler_kwargs .* unexpected keyword argument 'cycles'",
    '--lr_scheduler_type cosine --lr_scheduler_kwargs {"cycles":2}': "unexpected keyword argument 'cycles'",
    "--lr_scheduler_kwargs cycles=2": "Found --lr_scheduler_kwargs cycles=2; expected JSON",
    '--lr_scheduler_kwargs {"cycles":': "The options of Trainer cannot be used here",
    '--lr_scheduler_type constant --lr_scheduler_kwargs {"cycles":2}': "Found --lr_scheduler_kwargs without a sched",
    "--lr_scheduler_type constant --warmup_steps 5": "Found --warmup_steps without a schedule that warms up",
    "--lr_scheduler_type warmup_stable_decay": "Found --lr_scheduler_kwargs",
    "--activation_checkpointing --activation_checkpointing_kwargs x": "Found --activation_checkpointing_kwargs x; exp",
    '--accelerator_config {"odd":1}': "The options of Trainer cannot be used here: .*odd",
    "--torch_compile_backend nope": "Found --torch_compile_backend nope; expected what works here: one of",
    "--train_sampling_strategy longest": "invalid choice: 'longest'",
    "--optim_args momentum=0.9": "Found --optim_args without an --optim that takes them",
    "--optim sgd --optim_args momentum": "Found --optim sgd; expected what works here",
    "--optim sgd --optim_args momentun=0.9": "Found --optim sgd; .*: none that it takes is called momentun",
    "--optim sgd --optim_args momentum=-1": "Found --optim sgd; expected what works here: Invalid momentum",
    "--truncation head --overlap 5": "Found --overlap without --truncation none",
    "--freeze_encoder --layer_decay 0.9": "Found --layer_decay without --freeze_encoder false",
    "--train_file mine.csv --dataset_config_name mrpc": "Found --dataset_config_name without --dataset_name",
    "--eval_strategy epoch --eval_steps 5": "Found --eval_steps without --eval_strategy steps; expected both",
    "--save_strategy epoch --eval_steps 5": "Found --eval_steps without --eval_strategy steps; expected both",
    "--save_strategy epoch --save_steps 5": "Found --save_steps without --save_strategy steps",
    "--logging_strategy epoch --logging_steps 5": "Found --logging_steps without --logging_strategy steps",
    "--eval_strategy no --metric_for_best_model accuracy": "Found --metric_for_best_model without --eval_strategy",
    "--hub_model_id me/mine": "Found --hub_model_id without --push_to_hub",
    "--dataloader_persistent_workers": "Found --dataloader_persistent_workers without --dataloader_num_workers",
    "--max_steps 5 --num_train_epochs 2": "Found --max_steps with --num_train_epochs; expected one of them",
    '--deepspeed {"a":1}': "cannot be used here: .*deepspeed",
    "--report_to wandb": "Found --report_to wandb; expected what works here: .*wandb to be installed",
    "--report_to nothing": "Found --report_to nothing; expected what works here: nothing is not supported",
    **{
        f"--optim {name}": f"Found --optim {name}; expected what works here: "
        for name in (
            "paged_adamw_8bit",
            "schedule_free_adamw",
            "adamw_torch_8bit",
            "galore_adamw",
            "lomo",
            "grokadamw",
        )
    },
}


@pytest.mark.parametrize("options", MEANINGLESS)
def test_values_that_mean_nothing_and_missing_packages_get_one_line(options, tmp_path):
    skip_without(*(word[2:] for word in words_of(options) if word.startswith("--")))
    with pytest.raises(ValueError, match=MEANINGLESS[options]) as caught:
        parse(RecipeArguments, [*words_of(options), "--output_dir", str(tmp_path / "run")], defaults={})
    assert "\n" not in str(caught.value).strip() and not (tmp_path / "run").exists()
    is_deepspeed_zero3_enabled()  # half a configuration of DeepSpeed left behind would fail every model loaded later


@pytest.mark.parametrize(
    ("options", "evaluation", "saving"),
    [
        ("--eval_steps 5", ("steps", 5), ("steps", 5)),
        ("--save_steps 5", ("steps", 5), ("steps", 5)),
        ("--eval_steps 5 --save_steps 10", ("steps", 5), ("steps", 10)),
        ("--save_strategy no --eval_steps 5", ("steps", 5), ("no", 5)),
        ("--save_strategy best --eval_steps 5", ("steps", 5), ("best", 5)),
        ("--eval_strategy no --save_steps 5", ("no", None), ("steps", 5)),
        ("--eval_strategy epoch", ("epoch", None), ("epoch", 500)),
    ],
)
def test_steps_imply_their_strategy(options, evaluation, saving, tmp_path):
    words = [*words_of(options), "--output_dir", str(tmp_path)]
    args = parse(RecipeArguments, words, defaults={})[1]
    assert (args.eval_strategy, args.eval_steps) == evaluation and (args.save_strategy, args.save_steps) == saving


def rates(trainer) -> list[float]:
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def group(trainer) -> dict:
    return next(
        group for group in trainer.optimizer.param_groups if group["weight_decay"] or not trainer.args.weight_decay
    )


def evaluated(trainer) -> list[float]:
    return [entry["epoch"] for entry in trainer.state.log_history if "eval_loss" in entry]


def loader(trainer):
    return trainer.get_train_dataloader().base_dataloader


def layer(trainer):
    return trainer.model.encoder.encoder.layer[0]


def saved(trainer) -> set[str]:
    (folder, *_) = sorted(path for path in (ROOT / trainer.args.output_dir).glob("checkpoint-*"))
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def rows(tokenizer):
    rows = load_splits(str(SAMPLE))["train"].select(range(24))
    options = {"tokenizer": tokenizer, "max_length": 64}
    return rows.map(tokenize_windows, batched=True, remove_columns="text", fn_kwargs=options)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(len(EFFECTS)))
def test_options_do_what_they_say(run, rows, tokenizer, tmp_path):
    """Two epochs of three steps."""
    effects = {options: effect for options, (name, effect) in EFFECTS[run].items() if name in FIELDS}
    words = [word for options in effects for word in words_of(options)]
    words += ["--output_dir", str(tmp_path / "run"), "--num_train_epochs", "2", "--use_cpu", "--bf16", "false"]
    words += ["--per_device_train_batch_size", "8"]
    words += [] if "--eval_strategy" in words else ["--eval_strategy", "no"]
    before = torch.are_deterministic_algorithms_enabled(), logging.get_verbosity()
    try:
        args, training_args = parse(RecipeArguments, words, defaults={"classifier_dropout": 0.1})
        model = BertClsForSequenceClassification.from_encoder(str(TINY), from_scratch=True, num_labels=2)
        trainer = Trainer(
            model,
            training_args,
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=tokenizer,
            data_collator=WindowCollator(tokenizer),
            compute_metrics=make_compute_metrics(model.config),
            callbacks=training_callbacks(training_args),
        )
        trainer.train()
        failed = [options for options, effect in effects.items() if not effect(trainer)]
    finally:
        torch.use_deterministic_algorithms(before[0])
        logging.set_verbosity(before[1])
    assert failed == []
