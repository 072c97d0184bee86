"""What is wrong with a data set, found before a minute of training: duplicates, leaks, contradictions, cut texts.

`python -m bertcls.audit DATASET` prints a table, writes `audit.json` and ends with exit code 3 on a leak.
"""

import json
import re
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Literal
from unicodedata import category, is_normalized

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from bertcls.data.columns import digests, is_missing, key_of, numbers_in, row_batches, text_batches
from bertcls.data.labels import label_array, label_names_of, label_shares, problem_type_of
from bertcls.data.load import load_splits
from bertcls.data.splits import MIN_WORDS, SPLIT_SEED, draw_rows, find_within
from bertcls.layout import AUDIT
from bertcls.modeling import REGRESSION
from bertcls.process import OptionParser, one_line_errors, refuse_inside, remembered, say
from bertcls.text import CHARACTERS_AT_A_TIME, CJK_CHARACTER, collapse_blanks, count_characters, nfkc, portions
from bertcls.together import from_rank_0
from bertcls.tokenization import load_tokenizer

LEAK_EXIT_CODE = 3
LENGTHS = (128, 256, 512)  # tokens, special ones included
MIN_CHARACTERS = 8  # as MIN_WORDS, where words are not parted by blanks
_EXAMPLES = 5  # rows shown of each finding
_SHOWN_LABELS = 40  # in the table; audit.json has all
_MANY_UNKNOWN = 0.1  # tokens beyond which an encoder hardly reads the texts
_TOKENIZED_ROWS = 2000  # a share of these rows is within 2 points
_HTML = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|&(?:#\d+|#x[0-9a-fA-F]+|[a-zA-Z]{2,8});")


class _Part:
    """What is compared of a split, in arrays `[rows]`: texts and keys by digests, the words of keys, and more."""

    def __init__(self, split: Dataset):
        tables = []
        for texts in text_batches(split):
            keys = [*map(key_of, texts)]
            # a key with blanks around each Chinese or Japanese character, which are words of their own here
            words = [collapse_blanks(CJK_CHARACTER.sub(r" \g<0> ", key)) for key in keys]
            told = {
                "exact": digests(map("\0".join, texts)),
                "keys": digests(keys),
                "words": pa.array(words, pa.large_string()),
                "bare": [not key.strip() for key in keys],
                "long": [*map(_long_enough, words)],
                "empty": [not all(text.strip() for text in row) for row in texts],
                "html": [any(map(_HTML.search, row)) for row in texts],
            }
            tables.append(pa.table(told))
        table = pa.concat_tables(tables)
        self.words, self.ids = table["words"].combine_chunks(), numbers_in(split, "example_id")
        self.exact, self.keys, self.bare, self.long, self.empty, self.html = (
            table[name].to_numpy() for name in "exact keys bare long empty html".split()
        )
        names = [name for name in ("text", "text_pair") if name in split.column_names]
        self.pairs, self.missing = len(names) == 2, np.any([is_missing(split, name) for name in names], axis=0)


@remembered
def audit_splits(
    splits: DatasetDict, *, tokenizer: PreTrainedTokenizerBase | None = None, lengths: tuple[int, ...] = LENGTHS
) -> dict:
    """Findings as plain numbers, names and example ids, ready for JSON; time grows with the words of all texts.

    A text counts once: as equal to the letter, else as equal after normalisation (`comparison_key`), else as part of
    a longer text of the other split (of at least `MIN_WORDS` words; not for pairs). Empty texts do not leak. `dropped`
    are the rows that `drop_leaked` takes out. Tokens beyond `lengths` are counted on 2,000 rows drawn.
    """
    parts = {name: _Part(split) for name, split in splits.items()}
    findings: dict = {
        "rows": {name: len(split) for name, split in splits.items()},
        "labels": {name: _label_summary(split) for name, split in splits.items()},
        "alike_labels": _alike(label_names_of(splits["train"])),
        "missing_labels": {name: labels for name, split in splits.items() if (labels := _missing(split))},
        "texts": {name: _text_summary(part) for name, part in parts.items()},
        "duplicates": {
            name: {"exact": _repeated(part.exact[~part.empty]), "normalised": _repeated(part.keys[~part.empty])}
            for name, part in parts.items()
        },
        "contradictions": _contradictions(splits, parts),
        "leaks": {},
    }
    dropped: set[int] = set()
    for kept, other in combinations([name for name in ("test", "validation", "train") if name in splits], 2):
        findings["leaks"][f"{kept} in {other}"], ids = _leak(parts[kept], parts[other])
        dropped.update(ids)
    findings |= {"leaked": bool(dropped), "dropped": sorted(dropped)}
    if tokenizer is not None:
        read = {name: _read(split, tokenizer, lengths) for name, split in splits.items()}
        findings["cut"], findings["unknown"] = ({name: both[i] for name, both in read.items()} for i in range(2))
    return findings


def drop_leaked(splits: DatasetDict, findings: dict) -> DatasetDict:
    """The splits without the rows of train (and of validation, where test has them too) that leak."""
    out = {name: np.isin(numbers_in(split, "example_id"), findings["dropped"]) for name, split in splits.items()}
    return DatasetDict({name: split.select(np.flatnonzero(~out[name])) for name, split in splits.items()})


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

    With a tokenizer and `max_length` the tokens that would be cut are counted. Then `max_train_samples` and
    `max_test_samples` rows are drawn, label shares kept; those from test are the same for every `seed`.

    Raises:
        ValueError: a leak with `on_leak="error"`, or `drop` would leave a split or a label without a row.
    """

    def findings_of() -> list[int]:
        lengths = tuple(sorted({*LENGTHS, max_length or LENGTHS[0]}))
        apart = {name: split for name, split in splits.items() if name != "test" or split is not splits["train"]}
        findings = audit_splits(DatasetDict(apart), tokenizer=tokenizer, lengths=lengths)
        findings = findings | {"taken_out": len(findings["dropped"]) if on_leak == "drop" else 0}
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
        lost = [f"the {name} split has no row" for name, split in splits.items() if len(split) == 0]
        if lost := lost or [f"train has no row of the label {name}" for name in _missing(splits["train"])]:
            expected = "expected rows of every label. Give other data, or use --on_leak warn"
            raise ValueError(f"Without its leaking rows {lost[0]}; {expected}.")
    splits["train"] = draw_rows(splits["train"], max_train_samples, seed=seed)
    splits["test"] = draw_rows(splits["test"], max_test_samples, seed=SPLIT_SEED)
    say("rows: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()))
    return splits


def format_audit(findings: dict) -> str:
    """The findings as a table of one column a split, and a line for each thing to look at."""
    names, labels = list(findings["rows"]), findings["labels"]
    texts, twice = findings["texts"], findings["duplicates"]
    counts = {
        "equal texts, to the letter": {name: twice[name]["exact"] for name in names},
        "equal texts, normalised": {name: twice[name]["normalised"] for name in names},
        "texts with several labels": findings["contradictions"],
        "missing texts": {name: texts[name]["missing"] for name in names},
        "empty texts": {name: texts[name]["empty"] for name in names},
        "texts with HTML": {name: texts[name]["html"] for name in names},
    }
    rows = [("rows", [f"{findings['rows'][name]:,}" for name in names])]
    rows += [(label, [f"{labels[name][label]:.6f}" for name in names]) for label in [*labels["train"]][:_SHOWN_LABELS]]
    if len(labels["train"]) > _SHOWN_LABELS:
        rows.append((f"and {len(labels['train']) - _SHOWN_LABELS:,} more labels", ["" for _ in names]))
    rows += [(title, [f"{count[name]:,}" for name in names]) for title, count in counts.items()]
    for length in list(findings["cut"]["train"])[1:] if "cut" in findings else ():
        cut = [findings["cut"][name][length] for name in names]
        rows.append((f"cut by {length} tokens: texts, tokens", [f"{c['texts']:.1%}, {c['tokens']:.1%}" for c in cut]))
    unknown = findings.get("unknown", {})
    if any(unknown.values()):
        rows.append(("tokens unknown to the encoder", [f"{unknown[name]:.1%}" for name in names]))
    table = pd.DataFrame([cells for _, cells in rows], index=[title for title, _ in rows], columns=names)
    lines = [table.to_string()]
    for pair, leak in findings["leaks"].items():
        if leak["exact"] + leak["normalised"] + leak["contained"]:
            lines.append(
                f"LEAK, {pair}: {leak['exact']:,} of {leak['rows']:,} rows to the letter, {leak['normalised']:,} more "
                f"after normalisation, {leak['contained']:,} more as part of a longer text"
            )
    if findings.get("taken_out"):
        lines.append(f"TAKEN OUT: {findings['taken_out']:,} leaking rows (--on_leak drop); all above is from before")
    lines += [
        f"UNKNOWN: {share:.0%} of the tokens of {name} are unknown to the encoder, which was trained on other "
        "writing. Choose one for this language with --model_name_or_path."
        for name, share in unknown.items()
        if share > _MANY_UNKNOWN
    ]
    if findings["contradictions"]["all"]:
        lines.append(f"CONTRADICTION: {findings['contradictions']['all']:,} texts have several labels")
    for alike in findings["alike_labels"][:_SHOWN_LABELS]:
        shown = ", ".join(repr(name) if is_normalized("NFC", name) else ascii(name) for name in alike)
        counts = ", ".join(f"{labels['train'][name] * findings['rows']['train']:,.0f}" for name in alike)
        lines.append(f"LABELS that differ only in case, blanks or what is not seen: {shown} ({counts} rows of train)")
    for name, labels in findings["missing_labels"].items():
        more = f" and {len(labels) - _SHOWN_LABELS:,} more" if len(labels) > _SHOWN_LABELS else ""
        lines.append(f"LABELS missing from {name}: {', '.join(labels[:_SHOWN_LABELS])}{more}")
    return "\n".join(lines)


def _label_summary(split: Dataset) -> dict[str, float]:
    if problem_type_of(split) != REGRESSION:
        return label_shares(split)
    values = label_array(split)
    return {"mean": values.mean(), "deviation": values.std(), "lowest": values.min(), "highest": values.max()}


def _missing(split: Dataset) -> list[str]:
    """Labels without a row."""
    shares = {} if problem_type_of(split) == REGRESSION else label_shares(split)
    return [name for name, share in shares.items() if share == 0]


def _alike(names: list[str]) -> list[list[str]]:
    """Labels that differ only in case, blanks, characters that are not seen or the form of those that are."""
    groups = defaultdict(list)
    for name in names:
        seen = "".join(character for character in nfkc(name) if category(character) != "Cf")
        groups["".join(nfkc(seen.casefold()).split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _text_summary(part: _Part) -> dict:
    missing, empty, html = (int(rows.sum()) for rows in (part.missing, part.empty, part.html))
    examples = {f"{name}_examples": part.ids[getattr(part, name)][:_EXAMPLES].tolist() for name in ("empty", "html")}
    return {"missing": missing, "empty": empty - missing, "html": html} | examples


def _repeated(digests: np.ndarray) -> int:
    return len(digests) - len(np.unique(digests))


def _contradictions(splits: DatasetDict, parts: dict[str, _Part]) -> dict[str, int]:
    """Texts, equal after normalisation, that stand with more than one label: per split and over all of them."""
    tables = {}
    for name, split in splits.items():
        labels = np.concatenate([digests(map(str, batch["label"])) for batch in row_batches(split, "label")])
        tables[name] = pd.DataFrame({"key": parts[name].keys, "label": labels})[~parts[name].empty]
    tables["all"] = pd.concat([*tables.values()])
    return {name: int((table.groupby("key")["label"].nunique() > 1).sum()) for name, table in tables.items()}


def _leak(kept: _Part, other: _Part) -> tuple[dict, list[int]]:
    """Rows of `kept` that stand in `other`, and the ids of the rows of `other` in which they stand."""
    equal = ~kept.bare & np.isin(kept.keys, other.keys)
    exact = equal & np.isin(kept.exact, other.exact)
    contained, inside = np.zeros(len(kept.ids), bool), np.zeros(len(other.ids), bool)
    if not kept.pairs:
        asked = np.flatnonzero(kept.long & ~equal)
        words = kept.words.take(asked).to_pylist()
        parts = dict.fromkeys(words, False)
        places = np.sort(np.unique(other.keys, return_index=True)[1])
        read = (other.words[place].as_py() for place in places)
        for part, place in find_within(parts, read, count=len(places)):
            parts[part] = inside[places[place]] = True
        contained[asked] = [parts[part] for part in words]
    leak = {"rows": len(kept.ids), "long_rows": int(kept.long.sum())}
    leak["long_found"] = int((kept.long & equal).sum() + contained.sum())
    for kind, rows in {"exact": exact, "normalised": equal & ~exact, "contained": contained}.items():
        leak |= {kind: int(rows.sum()), f"{kind}_examples": kept.ids[rows][:_EXAMPLES].tolist()}
    leaking = np.isin(other.keys, np.concatenate([kept.keys[equal], other.keys[inside]]))
    return leak, other.ids[leaking].tolist()


def _long_enough(words: str) -> bool:
    return len(words.split()) >= (MIN_CHARACTERS if CJK_CHARACTER.search(words) else MIN_WORDS)


def _read(split: Dataset, tokenizer: PreTrainedTokenizerBase, lengths: tuple[int, ...]) -> tuple[dict, float]:
    """Share of texts, and of their tokens, beyond each of `lengths`; and of tokens that the encoder does not know."""
    rows = np.sort(np.random.default_rng(0).choice(len(split), min(len(split), _TOKENIZED_ROWS), replace=False))
    texts = [row for batch in text_batches(split.select(rows)) for row in batch]
    sizes, unknown = [], 0
    for part in portions(texts, map(count_characters, texts), CHARACTERS_AT_A_TIME):
        encoded = tokenizer(*map(list, zip(*part)), verbose=False)["input_ids"]
        sizes += map(len, encoded)
        unknown += sum(ids.count(tokenizer.unk_token_id) for ids in encoded)
    tokens = np.array(sizes)
    cut: dict = {"rows": len(rows)}
    for length in lengths:
        beyond = np.maximum(tokens - length, 0)
        cut[str(length)] = {"texts": float((beyond > 0).mean()), "tokens": float(beyond.sum() / tokens.sum())}
    special = tokenizer.num_special_tokens_to_add(pair=len(texts[0]) == 2) * len(rows)
    return cut, unknown / max(int(tokens.sum()) - special, 1)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = OptionParser(__doc__, prog="python -m bertcls.audit")
    parser.add_argument("dataset", help="Hub id, folder or file")
    parser.add_argument("--dataset_config_name", help="configuration of the data set")
    parser.add_argument("--label_column", nargs="+", help="as in the recipes")
    parser.add_argument("--drop_empty", action="store_true", help="as in the recipes")
    words = "text_column text_pair_column label_delimiter problem_type"
    for name in f"{words} validation_file test_file encoding delimiter".split():
        parser.add_argument(f"--{name}", help="as in the recipes")
    parser.add_argument("--model_name_or_path", help="encoder whose tokens are counted; without it none are")
    parser.add_argument("--output_dir", default=".", help=f"folder for {AUDIT}")
    args = vars(parser.parse_args(argv))
    source, output, model = args.pop("dataset"), Path(args.pop("output_dir")), args.pop("model_name_or_path")
    files = [path for path in (source, args["validation_file"], args["test_file"]) if path and Path(path).is_file()]
    refuse_inside(output / AUDIT, files, "--output_dir")
    splits = load_splits(source, keep_missing=True, **args)
    findings = audit_splits(splits, tokenizer=None if model is None else load_tokenizer(model))
    output.mkdir(parents=True, exist_ok=True)
    (output / AUDIT).write_text(json.dumps(findings, indent=2) + "\n")
    print(format_audit(findings))
    return LEAK_EXIT_CODE if findings["leaked"] else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
