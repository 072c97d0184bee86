"""What labels say, in every way that people write them down."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from bertcls import RecipeArguments, load_splits
from bertcls.audit import audit_splits, format_audit
from bertcls.data.labels import label_array, label_names_of, natural_key, problem_type_of
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.training.launch import parse

TOPICS = [["sport", "news"], ["news"], [], ["sport"]] * 2


def frame_of(labels: list) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"a text {i}" for i in range(len(labels))], "label": labels})


def train_of(labels: list, path=None, delimiter: str = ",", **options) -> Dataset:
    """Of labels in a DataFrame, or in a csv."""
    frame = frame_of(labels)
    if path is None:
        return load_splits(frame, **options)["train"]
    frame.to_csv(path / "a.csv", index=False, sep=delimiter)
    return load_splits(str(path / "a.csv"), **options)["train"]


def refused(labels: list, match: str, **options) -> None:
    with pytest.raises(ValueError, match=match) as error:
        train_of(labels, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("written", [str, json.dumps, lambda labels: str(tuple(labels)), lambda labels: f" {labels} "])
@pytest.mark.parametrize("in_a_file", [True, False])
def test_lists_that_became_strings_are_lists(tmp_path, written, in_a_file):
    split = train_of([*map(written, TOPICS)], tmp_path if in_a_file else None)
    assert problem_type_of(split) == MULTI_LABEL and label_names_of(split) == ["news", "sport"]
    assert split["label"][:] == [[0, 1], [0], [], [1]] * 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["['it''s', 'b']".replace("''", "\\'"), '["it\'s"]', "['b']"], ["b", "it's"]),
        (["['two words']", "['two words', 'a, b']", "['a, b']"], ["a, b", "two words"]),
        (["[10, 2]", "[2]", "[]", "[10]"], ["2", "10"]),
        (["{'a', 'b'}", "{'a'}", "[]"], ["a", "b"]),
        (["[BUG]", "[FEATURE]", "[BUG]"], None),
        (["(see below)", "[1] and [2]", "[x, y]"], None),
    ],
)
def test_lists_in_strings_keep_their_names(labels, expected):
    split = train_of(labels)
    assert label_names_of(split) == (expected or sorted({*labels}))
    assert problem_type_of(split) == (MULTI_LABEL if expected else SINGLE_LABEL)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (["[0, 1, 0]", "[1, 0, 0]", "[0, 0, 1]"], "Found the vector 0, 1, 0 in column label; expected lists of names"),
        (["[0 1 0]", "[1 0 0]", "[0 0 1]"], r"Found '\[0 1 0\]' in column label, row 0, which is no list"),
        (["['a' 'b']", "['a']", "['b']"], r"Found \"\['a' 'b'\]\" in column label, row 0"),
        (["['a', 'b']", "sport", "['b']"], "Found 'sport' in column label, row 1, which is no list that can be read"),
        (["['a', 'b']", "['a'", "['b']"], "row 1, which is no list"),
        (["['a', None]", "['a']", "['b']"], "row 0, which is no list"),
        (["[]", "[]", "sport", "news"], "Found 'sport' in column label, row 2, which is no list"),
        (["[sport, news]", "[news]", "{sport,news}"], r"Found '\[sport, news\]' in column label, row 0, which is no"),
        (["[ True False]", "[False  True]"], r"Found '\[ True False\]' in column label, row 0"),
        ([[0.9, 0.1], [0.2, 0.8]], "Found the vector 0.9, 0.1 in column label; expected lists of names"),
        ([[{"name": "sport"}], [{"name": "news"}]], "Found lists of .* in column label; expected lists of the names"),
        ([["sport"], ["sport", "news"], "news"], "Column label of .* mixes types"),
        ([["a"], ["a", None], ["b"]], r"Found a label that is missing in \['a', None\] of train in row 1"),
    ],
)
def test_what_is_no_list_is_refused(labels, match):
    refused(labels, match)


def test_lists_in_strings_and_the_options_that_contradict_them(tmp_path):
    labels = [*map(str, TOPICS)]
    refused(labels, "Found lists of labels", problem_type=SINGLE_LABEL)
    refused(labels, "Found --label_delimiter ',' with labels of type", label_delimiter=",")
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,\"['x']\"\nb,\"['y', 'x']\"\nc,y\n")
    with pytest.raises(ValueError, match="Found 'y' in column label, line 4 of .*a.csv, which is no list"):
        load_splits(str(path))


NAMES = {
    "decimal places": ["2.0", "2.00", "2", "2.0"],
    "codes": ["250.00", "250", "250.0", "V10", "250"],
    "zeros in front": ["01", "1", "001", "01"],
    "case, blanks inside": ["Good", "good", "go od", "GOOD"],
    "signs": ["+1", "1", "-1.5", "1e3", "1000"],
    "words that mean nothing elsewhere": ["None", "NA", "nan", "null", "True"],
}


@pytest.mark.parametrize("labels", NAMES.values(), ids=NAMES)
def test_names_of_a_csv_stay_as_written(tmp_path, labels):
    split = train_of(labels * 2, tmp_path, problem_type=SINGLE_LABEL)
    names = label_names_of(split)
    assert [names[number] for number in split["label"][:]] == labels * 2


ALIKE = {
    "case": ("Good", "good", "'Good', 'good'"),
    "blanks": ("very good", "verygood", "'very good', 'verygood'"),
    "a zero-width space": ("good", "good\u200b", r"'good', 'good\u200b'"),
    "a soft hyphen": ("go\u00adod", "good", r"'good', 'go\xadod'"),
    "a mark of direction": ("good", "\u200egood", r"'good', '\u200egood'"),
    "composed and not": ("caf\u00e9", "cafe\u0301", r"'cafe\u0301', 'café'"),
    "full width": ("A1", "Ａ１", "'A1', 'Ａ１'"),
    "sharp s": ("stra\u00dfe", "STRASSE", "'STRASSE', 'straße'"),
    "a ligature": ("ﬁne", "fine", "'fine', 'ﬁne'"),
}


@pytest.mark.parametrize(("one", "other", "shown"), ALIKE.values(), ids=ALIKE)
def test_names_that_look_alike_are_said_with_their_rows(one, other, shown):
    split = train_of([one] * 4 + [other] * 2 + ["bad"] * 3)
    assert len(label_names_of(split)) == 3  # nothing is merged
    line = format_audit(audit_splits({"train": split})).splitlines()[-1]
    counts = "4, 2" if sorted([one, other])[0] == one else "2, 4"
    assert line == (f"LABELS that differ only in case, blanks or what is not seen: {shown} ({counts} rows of train)")


def test_blanks_around_a_name_are_merged_with_a_word(caplog):
    split = train_of(["good", " good", "bad ", " bad", "fine"])
    assert label_names_of(split) == ["bad", "fine", "good"]
    assert "taken as one: ' bad', ' good', 'bad ', 'good'" in caplog.text


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        (["2", "2.1", "2.21", "2.3", "2.31"] * 6, REGRESSION, f"5 different numbers in column label .*{SINGLE_LABEL}"),
        ([1.5, 2.0, 2.5, 4.5] * 6, REGRESSION, f"4 different numbers .*1.5, 2.0, 2.5, 4.5.*{SINGLE_LABEL}"),
        ([1, 2, 3, 4, 5] * 6, SINGLE_LABEL, f"5 different numbers .* taken for classes; --problem_type {REGRESSION}"),
        (["1", "2", "3", "4", "5"] * 6, SINGLE_LABEL, f"taken for classes; --problem_type {REGRESSION}"),
        ([0, 1] * 6, SINGLE_LABEL, None),
        (["no", "yes", "3"] * 6, SINGLE_LABEL, None),
        ([i / 7 for i in range(40)], REGRESSION, None),
        ([*range(10)] + ["x"] * 10, SINGLE_LABEL, None),
    ],
)
def test_a_handful_of_numbers_is_said(labels, kind, said, caplog, capsys):
    split = train_of([*map(str, labels)] if "x" in labels else labels)
    words = caplog.text + capsys.readouterr().out
    assert problem_type_of(split) == kind
    assert pd.Series([words]).str.contains(said or "different numbers")[0] == (said is not None)


def test_asked_for_values_or_classes_no_word_is_lost_on_them(caplog, capsys):
    assert problem_type_of(train_of([1, 2, 3] * 5, problem_type=REGRESSION)) == REGRESSION
    assert label_names_of(train_of(["2", "2.1"] * 5, problem_type=SINGLE_LABEL)) == ["2", "2.1"]
    declared = Dataset.from_pandas(frame_of([0, 1, 2] * 5)).cast_column("label", ClassLabel(names=["a", "b", "c"]))
    assert problem_type_of(load_splits(declared)["train"]) == SINGLE_LABEL
    assert not caplog.text and not capsys.readouterr().out


COMMAS = ["1,0", "2,5", "0,00", "-3,25", "1e1", "4"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas_are_numbers_where_no_comma_parts_the_cells(tmp_path, delimiter, capsys):
    split = train_of(COMMAS, tmp_path, delimiter)
    assert "Commas in column label are read as decimal points, as in 1,0." in capsys.readouterr().out
    assert label_array(split).tolist() == [1, 2.5, 0, -3.25, 10, 4]
    whole = ["1,0", "2,0", "5,0"] * 4
    with pytest.raises(ValueError, match="Found the whole numbers with decimal places 1,0, 2,0, 5,0"):
        train_of(whole, tmp_path, delimiter)
    assert label_array(train_of(whole, tmp_path, delimiter, problem_type=REGRESSION)).tolist() == [1, 2, 5] * 4
    assert label_names_of(train_of(whole, tmp_path, delimiter, problem_type=SINGLE_LABEL)) == ["1,0", "2,0", "5,0"]
    assert label_names_of(train_of(whole, tmp_path, delimiter, label_delimiter=",")) == ["0", "1", "2", "5"]


def test_decimal_commas_stay_text_elsewhere(tmp_path):
    assert problem_type_of(train_of(COMMAS * 2, tmp_path)) == SINGLE_LABEL
    with pytest.raises(ValueError, match="Found the label '1,0' of train in line 2 of .*a.csv; expected a number"):
        train_of(COMMAS, tmp_path, problem_type=REGRESSION)
    with pytest.raises(ValueError, match=r"Found the label '1\.234,5' of train in line 2 of"):
        train_of(["1.234,5", "2,5"], tmp_path, ";", problem_type=REGRESSION)


def test_arrays_of_labels_are_as_exact_as_their_sums_need_and_may_be_changed():
    years = label_array(train_of([2019.25, 2021.5, 1e30] * 8))
    assert years.dtype == float and years.std() < 1e31
    assert years.mean() == pytest.approx(np.mean([2019.25, 2021.5, 1e30]))
    classes, several = label_array(train_of(["a", "b"] * 4)), label_array(train_of(TOPICS))
    assert classes.tolist() == [0, 1] * 4 and several.tolist() == [[1, 1], [1, 0], [0, 0], [0, 1]] * 2
    for labels in (years, classes, several):
        labels += 1


def test_lists_in_strings_of_another_arrow_type():
    table = pa.table({"text": ["a", "b", "c"], "label": pa.array(["['x']", "['x', 'y']", None], pa.string_view())})
    split = load_splits(Dataset(table), drop_empty=True)["train"]
    assert label_names_of(split) == ["x", "y"] and split["label"][:] == [[0], [0, 1]]
    odd = table.set_column(1, "label", pa.array(["['x']", "y", None], pa.string_view()))
    with pytest.raises(ValueError, match="Found 'y' in column label, row 1, which is no list that can be read"):
        load_splits(Dataset(odd))


COMMENTS = "id,comment_text,toxic,obscene,threat\n1,a,0,0,0\n2,b,1,0,1\n3,c,0,1,0\n4,d,1,1,1\n"
COLUMNS = {"text_column": "comment_text", "label_column": ["toxic", "obscene", "threat"]}
EXPECTED = [[], [0, 2], [1], [0, 1, 2]]


@pytest.mark.parametrize("kind", ["0 and 1", "1.0", "True", "bool", "float", "parquet"])
def test_a_column_a_label(tmp_path, kind):
    (tmp_path / "a.csv").write_text(COMMENTS)
    source, frame = str(tmp_path / "a.csv"), pd.read_csv(tmp_path / "a.csv")
    names = COLUMNS["label_column"]
    if kind in ("1.0", "True"):
        zero, one = ("0.0", "1.0") if kind == "1.0" else ("False", "True")
        frame[names] = frame[names].astype(str).replace({"0": zero, "1": one})
        frame.to_csv(source, index=False)
    elif kind in ("bool", "float"):
        source = frame.astype(dict.fromkeys(names, kind))
    elif kind == "parquet":
        source = str(tmp_path / "a.parquet")
        frame.to_parquet(source)
    split = load_splits(source, **COLUMNS)["train"]
    assert problem_type_of(split) == MULTI_LABEL and label_names_of(split) == names  # in the order of the columns
    assert split["label"][:] == EXPECTED and split.column_names == ["text", "label", "example_id"]
    assert label_array(split).sum() == 6


@pytest.mark.parametrize(
    ("cells", "match"),
    [
        ("5,e,2,0,0", "Found '2' in column toxic, line 6 of .*a.csv; expected 0 or 1 in each"),
        ("5,e,0,yes,0", "Found 'yes' in column obscene, line 6 of"),
        ("5,e,0,0.5,0", "Found '0.5' in column obscene, line 6 of"),
        ("5,e,0,,0", "Found 1 rows without a text or label .* the first at line 6 of"),
        ("5,e,-1,-1,-1", "Found 1 rows without a text or label"),
    ],
)
def test_a_column_a_label_holds_0_and_1(tmp_path, cells, match):
    (tmp_path / "a.csv").write_text(f"{COMMENTS}{cells}\n")
    with pytest.raises(ValueError, match=match) as error:
        load_splits(str(tmp_path / "a.csv"), **COLUMNS)
    assert "\n" not in str(error.value)
    if "without" in match:
        assert load_splits(str(tmp_path / "a.csv"), **COLUMNS, drop_empty=True)["train"]["label"][:] == EXPECTED


def test_a_column_a_label_in_several_splits(tmp_path, caplog):
    for name, content in {"train": COMMENTS, "test": "id,comment_text\n9,z\n"}.items():
        (tmp_path / f"{name}.csv").write_text(content)
    assert [*load_splits(str(tmp_path), **COLUMNS)] == ["train"]
    assert "The test split of" in caplog.text and "has no column toxic, obscene, threat" in caplog.text
    hidden = "\n".join(",".join([*line.split(",")[:2], "-1,-1,-1"]) for line in COMMENTS.splitlines()[1:])
    (tmp_path / "test.csv").write_text(f"{COMMENTS.splitlines()[0]}\n{hidden}\n")
    assert [*load_splits(str(tmp_path), **COLUMNS)] == ["train"]
    (tmp_path / "test.csv").write_text(COMMENTS)
    assert load_splits(str(tmp_path), **COLUMNS)["test"]["label"][:] == EXPECTED
    with pytest.raises(ValueError, match="Found the columns id, comment_text, .* expected insult. Name the right one"):
        load_splits(str(tmp_path), text_column="comment_text", label_column=["toxic", "insult"])
    with pytest.raises(ValueError, match="Found lists of labels .* with --problem_type"):
        load_splits(str(tmp_path), **COLUMNS, problem_type=SINGLE_LABEL)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--label_column", "toxic", "obscene"], ["toxic", "obscene"]),
        (["--label_column", "topic"], "topic"),
        ([], "of the recipe"),
    ],
)
def test_label_columns_on_the_command_line(tmp_path, words, expected):
    words = [*words, "--drop_empty", "--output_dir", str(tmp_path / "run")]
    args, _ = parse(RecipeArguments, words, defaults={"label_column": "of the recipe"})
    assert args.of(load_splits)["label_column"] == expected and args.of(load_splits)["drop_empty"] is True


def test_numbers_of_any_length_are_sorted():
    names = ["10", "2", "1" * 5000, "a2", "a10", "007", "7"]
    assert sorted(names, key=natural_key) == ["2", "007", "7", "10", "1" * 5000, "a2", "a10"]
    refused(["1.5", "2.25", "1" * 5000], "Found the label '1111111.{0,40} of train in row 2; expected a number")


def test_numbers_that_are_none_keep_a_column_of_numbers():
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.5, float("nan"), 2.25]})
    assert problem_type_of(load_splits(rows, drop_empty=True)["train"]) == REGRESSION
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1.5, float("inf"), 2.25]})
    with pytest.raises(ValueError, match="Found the label inf of train in row 1; expected a number"):
        load_splits(rows)


def test_a_name_twice_in_a_list_is_one_label():
    assert train_of([["news", "news"], ["sport"], ["news", "sport"]])["label"][:] == [[0], [1], [0, 1]]


@pytest.mark.parametrize(
    ("train", "other", "options", "message"),
    [
        ([["a"], ["b"], ["a", "b"]], ["a", "b"], {}, "labels of type string in column label of test; expected lists"),
        ([["a"], ["b"], ["a", "b"]], [1, 0], {}, "labels of type int64 in column label of test; expected lists"),
        (["a;b", "b", "a"], [["a"], ["b"]], {"label_delimiter": ";"}, "of test; expected strings, as in train"),
        (["a", "b", "a"], [["a"], ["b"]], {}, "of test; expected one a row, as in train"),
    ],
)
def test_labels_of_another_kind_than_in_train_are_refused(tmp_path, train, other, options, message):
    for name, labels in (("train", train), ("test", other)):
        frame_of(labels).to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    with pytest.raises(ValueError, match=message):
        load_splits(str(tmp_path), **options)


def test_blank_labels_in_place_of_lists_are_hidden(tmp_path):
    for name, labels in (("train", [["a"], ["b"], ["a", "b"]]), ("test", ["", ""])):
        frame_of(labels).to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    assert {*load_splits(str(tmp_path))} == {"train"}


def test_hidden_numbers_are_no_split_to_report():
    parts = {
        "train": Dataset.from_pandas(frame_of([0.5, 1.5, 2.5])),
        "test": Dataset.from_pandas(frame_of([-1.0, -1.0])),
    }
    assert {*load_splits(DatasetDict(parts))} == {"train"}


def test_numbers_that_are_names_of_classes_are_those_numbers():
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 4, 2]})
    rows = rows.cast_column("label", ClassLabel(names=["1", "2", "3", "4", "5"]))
    assert load_splits(rows, problem_type=REGRESSION)["train"]["label"][:] == [1.0, 5.0, 3.0]
    stars = rows.cast_column("label", ClassLabel(names=[f"{number} stars" for number in range(1, 6)]))
    assert load_splits(stars, problem_type=REGRESSION)["train"]["label"][:] == [0.0, 4.0, 2.0]
    rows = rows.cast_column("label", ClassLabel(names=["-1", "0", "1", "2", "3"]))
    assert label_names_of(load_splits(rows)["train"]) == ["-1", "0", "1", "2", "3"]


@pytest.mark.parametrize("missing", ["a", "b", "c", "d"])
def test_several_labels_of_a_split_that_lacks_a_class_stay_on_their_rows(tmp_path, missing):
    train = ["a;b", "b;c", "c;d", "d;a", "a", "b", "c", "d"]
    test = [";".join(name for name in cell.split(";") if name != missing) for cell in train]
    files = {}
    for name, cells in (("train", train), ("test", test), ("validation", test[::-1])):
        files[f"{name}_file"] = str(tmp_path / f"{name}.csv")
        rows = [f"{name} {row} of it,{cell}" for row, cell in enumerate(cells)]
        Path(files[f"{name}_file"]).write_text("\n".join(["text,label", *rows]) + "\n")
    splits = load_splits(**files, label_delimiter=";")
    for name, cells in (("train", train), ("test", test), ("validation", test[::-1])):
        found = [";".join("abcd"[number] for number in labels) for labels in splits[name]["label"]]
        assert found == [";".join(sorted(filter(None, cell.split(";")))) for cell in cells], name


def test_names_in_bytes_are_names(tmp_path):
    pd.DataFrame({"text": [f"text {n}" for n in range(8)], "label": [b"no", b"yes"] * 4}).to_parquet(
        tmp_path / "a.parquet"
    )
    assert load_splits(train_file=str(tmp_path / "a.parquet"))["train"].features["label"].names == ["no", "yes"]
