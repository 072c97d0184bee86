"""What is wrong with a data set, found before a minute of training: duplicates, leaks, contradictions, cut texts.

`python -m bertcls.audit DATASET` prints a table, writes `audit.json` and ends with exit code 3 on a leak.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from bertcls.data.labels import label_names_of, label_shares, problem_type_of
from bertcls.data.load import load_splits
from bertcls.data.splits import MIN_WORDS, SPLIT_SEED, containers, draw_rows
from bertcls.layout import AUDIT
from bertcls.modeling import REGRESSION
from bertcls.process import from_rank_0, one_line_errors, say
from bertcls.text import comparison_key
from bertcls.tokenization import load_tokenizer

LEAK_EXIT_CODE = 3
LENGTHS = (128, 256, 512)  # tokens, special ones included
MIN_CHARACTERS = 8  # the same where words are not parted by blanks
_EXAMPLES = 5  # rows shown of each finding
_SHOWN_LABELS = 40  # in the table; audit.json has all
_TOKENIZED_ROWS = 2000  # a share of these rows is within 2 points
_WIDE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # characters of Chinese and Japanese
_WIDE_CHARACTER = re.compile(f"([{_WIDE}])")
_HTML = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|&(?:#\d+|#x[0-9a-fA-F]+|[a-zA-Z]{2,8});")


def audit_splits(
    splits: DatasetDict,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    lengths: tuple[int, ...] = LENGTHS,
    seed: int = 0,
) -> dict:
    """Everything that the module's first line names. Time grows with the words of all texts.

    A text counts once: as equal to the letter, else as equal after normalisation (`comparison_key`), else as
    contained, word for word, in a longer text of the other split (texts of at least `MIN_WORDS` words; not for pairs).
    Empty texts do not leak.

    Args:
        splits: as `load_splits` gives them, missing texts included where they were kept.
        tokenizer: counts the tokens that a cut would lose, on 2,000 rows drawn from a split; `None`: not counted.
        lengths: where to cut, in tokens.
        seed: of that draw.

    Returns:
        findings as plain numbers, names and example ids, ready for JSON. `leaked` says whether texts of one split
        stand in another, and `dropped` lists the rows that `drop_leaked` takes out to mend it.
    """
    texts = {name: _texts(split) for name, split in splits.items()}
    keys = {name: [_key(text) for text in rows] for name, rows in texts.items()}
    findings: dict = {"rows": {name: len(split) for name, split in splits.items()}}
    findings["labels"] = {name: _label_summary(split) for name, split in splits.items()}
    findings["alike_labels"] = _alike(label_names_of(splits["train"]))
    findings["missing_labels"] = {
        name: absent
        for name, split in splits.items()
        if problem_type_of(split) != REGRESSION and (absent := [k for k, v in label_shares(split).items() if v == 0])
    }
    findings["texts"] = {name: _text_summary(split, texts[name]) for name, split in splits.items()}
    findings["duplicates"] = {
        name: {
            "exact": len(texts[name]) - len(set(texts[name])),
            "normalised": len(keys[name]) - len(set(keys[name])),
        }
        for name in splits
    }
    findings["contradictions"] = _contradictions(splits, keys)
    findings["leaks"], dropped = {}, set()
    for kept, other in combinations([name for name in ("test", "validation", "train") if name in splits], 2):
        leak, rows = _leak(splits[kept], splits[other], texts[kept], texts[other], keys[kept], keys[other])
        findings["leaks"][f"{kept} in {other}"] = leak
        dropped.update(rows)
    findings["leaked"] = bool(dropped)
    findings["dropped"] = sorted(dropped)
    if tokenizer is not None:
        findings["cut"] = {name: _cut(rows, tokenizer, lengths, seed) for name, rows in texts.items()}
    return findings


def drop_leaked(splits: DatasetDict, findings: dict) -> DatasetDict:
    """The splits without the rows of train (and of validation, where test has them too) that leak."""
    dropped = np.array(findings["dropped"], dtype=np.int64)
    return DatasetDict(
        {
            name: split.select(np.flatnonzero(~np.isin(split["example_id"][:], dropped)))
            for name, split in splits.items()
        }
    )


def audit_run(
    splits: DatasetDict,
    *,
    run_dir: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    on_leak: Literal["warn", "drop", "error"] = "warn",
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
    seed: int = 42,
) -> DatasetDict:
    """Audits the splits of a run on its first process: prints the table, writes `audit.json`, and acts on a leak.

    Args:
        splits: that the run will use.
        run_dir: where `audit.json` goes.
        tokenizer: of the encoder, to count the tokens that would be cut.
        max_length: of the run's windows, at which a cut is counted, too.
        on_leak: go on with a warning, drop the leaking rows of train, or stop.
        max_train_samples, max_test_samples: rows that are drawn then, label shares kept; `None` keeps all.
        seed: of the draw from train; that from test is the same for every seed.

    Returns:
        the splits to use.

    Raises:
        ValueError: a leak with `on_leak="error"`, or `drop` would leave no row in a split or of a label in train.
    """

    def findings_of() -> list[int]:
        lengths = tuple(sorted({*LENGTHS, max_length or LENGTHS[0]}))
        findings = audit_splits(splits, tokenizer=tokenizer, lengths=lengths)
        findings["taken_out"] = len(findings["dropped"]) if on_leak == "drop" else 0
        print(format_audit(findings))
        Path(run_dir, AUDIT).write_text(json.dumps(findings, indent=2) + "\n")
        return findings["dropped"]

    dropped = from_rank_0(findings_of)
    if dropped and on_leak == "error":
        raise ValueError(
            f"Found {len(dropped)} rows of train or validation that stand in a split they are to be judged by; "
            f"expected none. See {Path(run_dir, AUDIT)}; --on_leak drop takes these rows out, --on_leak warn goes on."
        )
    splits = DatasetDict(splits)
    if dropped and on_leak == "drop":
        splits = drop_leaked(splits, {"dropped": dropped})
        _refuse_emptied(splits)
    splits["train"] = draw_rows(splits["train"], max_train_samples, seed=seed)
    splits["test"] = draw_rows(splits["test"], max_test_samples, seed=SPLIT_SEED)
    say("rows: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()))
    return splits


def _refuse_emptied(splits: DatasetDict) -> None:
    for name, split in splits.items():
        if len(split) == 0:
            raise ValueError(
                f"Without its leaking rows the {name} split has 0 rows; expected some. Give other data, or use "
                "--on_leak warn."
            )
    classes = problem_type_of(splits["train"]) != REGRESSION
    lost = [name for name, share in _label_summary(splits["train"]).items() if classes and share == 0]
    if lost:
        raise ValueError(
            f"Without its leaking rows train has no row of the label {lost[0]}; expected rows of every label. Give "
            "other data, or use --on_leak warn."
        )


def format_audit(findings: dict) -> str:
    """The findings as a table of one column a split, and a line for each thing to look at."""
    names = list(findings["rows"])
    rows = [("rows", [f"{findings['rows'][name]:,}" for name in names])]
    labels = list(findings["labels"]["train"])
    for label in labels[:_SHOWN_LABELS]:
        shares = [findings["labels"][name][label] for name in names]
        rows.append((label, [f"{share:.6f}" for share in shares]))
    if len(labels) > _SHOWN_LABELS:
        rows.append((f"and {len(labels) - _SHOWN_LABELS:,} more labels", ["" for _ in names]))
    shown = [
        ("equal texts, to the letter", [findings["duplicates"][name]["exact"] for name in names]),
        ("equal texts, normalised", [findings["duplicates"][name]["normalised"] for name in names]),
        ("texts with several labels", [findings["contradictions"][name] for name in names]),
        *((f"{kind} texts", [findings["texts"][name][kind] for name in names]) for kind in ("missing", "empty")),
        ("texts with HTML", [findings["texts"][name]["html"] for name in names]),
    ]
    rows += [(title, [f"{number:,}" for number in numbers]) for title, numbers in shown]
    for length in list(findings["cut"]["train"])[1:] if "cut" in findings else ():
        cut = [findings["cut"][name][length] for name in names]
        rows.append((f"cut by {length} tokens: texts, tokens", [f"{c['texts']:.1%}, {c['tokens']:.1%}" for c in cut]))
    width = max(len(title) for title, _ in rows)
    columns = [max([len(name), *(len(cells[i]) for _, cells in rows)]) for i, name in enumerate(names)]
    lines = ["  ".join([" " * width, *(name.rjust(size) for name, size in zip(names, columns))])]
    lines += ["  ".join([title.ljust(width), *(c.rjust(s) for c, s in zip(cells, columns))]) for title, cells in rows]
    for pair, leak in findings["leaks"].items():
        if leak["exact"] + leak["normalised"] + leak["contained"]:
            lines.append(
                f"LEAK, {pair}: {leak['exact']:,} of {leak['rows']:,} rows to the letter, {leak['normalised']:,} more "
                f"after normalisation, {leak['contained']:,} more as part of a longer text"
            )
    if findings.get("taken_out"):
        lines.append(f"TAKEN OUT: {findings['taken_out']:,} leaking rows (--on_leak drop); all above is from before")
    if findings["contradictions"]["all"]:
        lines.append(f"CONTRADICTION: {findings['contradictions']['all']:,} texts have several labels")
    for alike in findings["alike_labels"][:_SHOWN_LABELS]:
        lines.append(f"LABELS that differ only in case or blanks: {', '.join(map(repr, alike))}")
    for name, labels in findings["missing_labels"].items():
        more = f" and {len(labels) - _SHOWN_LABELS:,} more" if len(labels) > _SHOWN_LABELS else ""
        lines.append(f"LABELS missing from {name}: {', '.join(labels[:_SHOWN_LABELS])}{more}")
    return "\n".join(lines)


def _texts(split: Dataset) -> list[str | tuple[str, str]]:
    """Texts, or pairs; an empty one for a missing one."""
    texts = [text or "" for text in split["text"][:]]
    if "text_pair" in split.column_names:
        return list(zip(texts, [text or "" for text in split["text_pair"][:]]))
    return texts


def _key(text: str | tuple[str, str]) -> str:
    return comparison_key(text) if isinstance(text, str) else "\n".join(map(comparison_key, text))


def _label_summary(split: Dataset) -> dict[str, float]:
    if problem_type_of(split) != REGRESSION:
        return label_shares(split)
    values = np.array(split["label"][:], dtype=np.float64)
    return {"mean": values.mean(), "deviation": values.std(), "lowest": values.min(), "highest": values.max()}


def _alike(names: list[str]) -> list[list[str]]:
    """Labels that differ only in case or blanks."""
    groups = defaultdict(list)
    for name in names:
        groups["".join(name.lower().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _text_summary(split: Dataset, texts: list) -> dict:
    pairs = isinstance(texts[0], tuple)
    columns = ["text", "text_pair"] if pairs else ["text"]
    missing = sum(map(any, zip(*([text is None for text in split[column][:]] for column in columns))))
    empty = [row for row, text in enumerate(texts) if not all(part.strip() for part in (text if pairs else (text,)))]
    html = [row for row, text in enumerate(texts) if _HTML.search("\n".join(text) if pairs else text)]
    ids = split["example_id"]
    return {
        "missing": missing,
        "empty": len(empty) - missing,
        "html": len(html),
        "empty_examples": [ids[row] for row in empty[:_EXAMPLES]],
        "html_examples": [ids[row] for row in html[:_EXAMPLES]],
    }


def _contradictions(splits: DatasetDict, keys: dict[str, list[str]]) -> dict[str, int]:
    """Texts, equal after normalisation, that stand with more than one label: per split and over all of them."""
    result, labels_of = {}, defaultdict(set)
    for name, split in splits.items():
        within = defaultdict(set)
        for key, label in zip(keys[name], split["label"][:]):
            label = tuple(label) if isinstance(label, list) else label
            within[key].add(label)
            labels_of[key].add(label)
        result[name] = sum(len(labels) > 1 for labels in within.values())
    return result | {"all": sum(len(labels) > 1 for labels in labels_of.values())}


def _leak(
    kept: Dataset, other: Dataset, kept_texts: list, other_texts: list, kept_keys: list[str], other_keys: list[str]
) -> tuple[dict, list[int]]:
    """Rows of `kept` that stand in `other`, and the ids of the rows of `other` in which they stand."""
    other_text, other_key = set(other_texts), set(other_keys)
    exact = [row for row, (text, key) in enumerate(zip(kept_texts, kept_keys)) if text in other_text and key.strip()]
    seen = set(exact)
    normalised = [row for row, key in enumerate(kept_keys) if key in other_key and key.strip() and row not in seen]
    seen.update(normalised)
    long = [row for row, key in enumerate(kept_keys) if _long_enough(key)]
    contained, inside = [], set()
    if kept_texts and isinstance(kept_texts[0], str):
        candidates = [row for row in long if row not in seen]
        found = containers([_words(kept_keys[row]) for row in candidates], [_words(key) for key in other_key])
        contained = [row for row, texts in zip(candidates, found) if texts]
        inside = set().union(*found)
    equal = {kept_keys[row] for row in seen}
    rows = [row for row, key in enumerate(other_keys) if key in equal or (inside and _words(key) in inside)]
    ids, other_ids = kept["example_id"][:], other["example_id"][:]
    leak = {"rows": len(kept), "long_rows": len(long), "long_found": len(seen.intersection(long)) + len(contained)}
    for kind, found_rows in (("exact", exact), ("normalised", normalised), ("contained", contained)):
        leak |= {kind: len(found_rows), f"{kind}_examples": [ids[row] for row in found_rows[:_EXAMPLES]]}
    return leak, [other_ids[row] for row in rows]


def _words(key: str) -> str:
    """A key with blanks around each Chinese or Japanese character, which are words of their own here."""
    return " ".join(_WIDE_CHARACTER.sub(r" \1 ", key).split())


def _long_enough(key: str) -> bool:
    wide = len(_WIDE_CHARACTER.findall(key))
    return len(_words(key).split()) >= (MIN_CHARACTERS if wide else MIN_WORDS)


def _cut(texts: list, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, ...], seed: int) -> dict:
    """Share of texts, and of their tokens, beyond each of `lengths`."""
    rows = np.arange(len(texts))
    if len(rows) > _TOKENIZED_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _TOKENIZED_ROWS, replace=False))
    drawn = [texts[row] for row in rows]
    encoded = tokenizer(*(map(list, zip(*drawn)) if isinstance(drawn[0], tuple) else [drawn]), verbose=False)
    tokens = np.array([len(ids) for ids in encoded["input_ids"]])
    beyond = {length: np.maximum(tokens - length, 0) for length in lengths}
    return {"rows": len(rows)} | {
        str(length): {"texts": float((over > 0).mean()), "tokens": float(over.sum() / tokens.sum())}
        for length, over in beyond.items()
    }


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bertcls.audit", description=__doc__, allow_abbrev=False)
    parser.add_argument("dataset", help="Hub id, folder or file")
    parser.add_argument("--dataset_config_name", help="configuration of the data set")
    for name in ("text_column", "text_pair_column", "label_column", "label_delimiter", "problem_type"):
        parser.add_argument(f"--{name}", help="as in the recipes")
    for name in ("validation_file", "test_file", "encoding", "delimiter"):
        parser.add_argument(f"--{name}", help="as in the recipes")
    parser.add_argument("--model_name_or_path", help="encoder whose tokens are counted; without it none are")
    parser.add_argument("--output_dir", default=".", help=f"folder for {AUDIT}")
    args = vars(parser.parse_args(argv))
    source, output, model = args.pop("dataset"), Path(args.pop("output_dir")), args.pop("model_name_or_path")
    config_name = args.pop("dataset_config_name")
    splits = load_splits(source, config_name, keep_missing=True, **args)
    findings = audit_splits(splits, tokenizer=None if model is None else load_tokenizer(model))
    output.mkdir(parents=True, exist_ok=True)
    (output / AUDIT).write_text(json.dumps(findings, indent=2) + "\n")
    print(format_audit(findings))
    return LEAK_EXIT_CODE if findings["leaked"] else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
