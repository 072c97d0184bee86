"""Models, encoders and runs that the tests of several modules use."""

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DebertaV2Config,
    DistilBertConfig,
    LongformerConfig,
    ModernBertConfig,
    RobertaConfig,
)

from bertcls import BertClsConfig, BertClsForSequenceClassification, RecipeArguments, TextClassifier
from bertcls.training.launch import parse

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
    "num_hidden_layers": 2,
}
ENCODERS = {
    "bert": AutoConfig.for_model("bert", **SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "distilbert": DistilBertConfig(vocab_size=60, dim=32, n_heads=2, hidden_dim=64, n_layers=2),
    "deberta-v2": DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=0),
    "longformer": LongformerConfig(**SMALL, pad_token_id=1, attention_window=8),
}


def build(*, num_labels=3, encoder=None, **config) -> BertClsForSequenceClassification:
    torch.manual_seed(0)
    encoder = encoder or ENCODERS["bert"]
    return BertClsForSequenceClassification(BertClsConfig(encoder=encoder, num_labels=num_labels, **config)).eval()


def save_model(encoder_folder, folder, **options) -> str:
    torch.manual_seed(1)
    options = {"id2label": {0: "bad", 1: "good"}, "max_length": 32, "overlap": 6, **options}
    model = BertClsForSequenceClassification.from_encoder(encoder_folder, **options)
    torch.nn.init.normal_(model.classifier.weight, std=5.0)  # so that answers differ visibly
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    pair = "pair_truncation" in options
    texts = [("good film", text) if pair else text for text in ("bad", "good film", "dull, never bad " * 9)]
    with torch.no_grad():  # and go both ways
        model.classifier.bias -= torch.tensor(TextClassifier(model, tokenizer, device="cpu").logits(texts).mean(0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


FILES = {
    ".lock",
    "README.md",
    "audit.json",
    "checkpoints",
    "config.json",
    "model.safetensors",
    "modeling.py",
    "report",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def arguments_of(recipe) -> type:
    """The dataclass of a recipe's options."""
    names = [name for name in vars(recipe) if name.endswith("Arguments") and name != "TrainingArguments"]
    return getattr(recipe, "Arguments" if "Arguments" in names else names[-1])


def sample_words(recipe, *words) -> list[str]:
    """Of a recipe's sample with the encoder that starts at random, unless the words name another."""
    tiny = "scratch" in recipe.SAMPLE and not {"--model_name_or_path", "--from_scratch"} & {*words}
    return ["--sample", *["--from_scratch"] * tiny]


def run_recipe_main(recipe, folder, *words, sample=True, figures=False):
    words = [
        *(sample_words(recipe, *words) if sample else []),
        "--figures",
        str(figures),
        "--output_dir",
        str(folder),
        *words,
    ]
    args, training_args = parse(RecipeArguments, words, defaults=recipe.DEFAULTS, sample=recipe.SAMPLE)
    return recipe.main(args, training_args)
