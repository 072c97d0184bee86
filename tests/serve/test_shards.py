"""Shards of a job array: each labels its share of the parts, and the same command without one joins them."""

import re

import pytest
from conftest import load_recipe
from filelock import FileLock
from helpers import save_model
from test_bulk import refused, run

from bertcls.serve import bulk
from bertcls.serve.bulk import number_of_shard, parts_folder


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("predict")


@pytest.fixture(scope="module")
def words(encoder_folder, tmp_path_factory) -> list:
    """Of a command that labels 100 rows in 13 parts, but for its output."""
    place = tmp_path_factory.mktemp("shards")
    (place / "mine.csv").write_text(
        "text\n" + "".join(f"good film {row} {'bad ' * (row % 7)}\n" for row in range(100))
    )
    model = save_model(encoder_folder, place / "model")
    return ["--model_name_or_path", model, "--dataset_name", place / "mine.csv", "--rows_per_part", "8"]


def test_shards_joined_are_an_unsharded_run(recipe, words, tmp_path, capsys):
    run(recipe, *words, "--output_file", tmp_path / "whole.parquet")
    here = [*words, "--output_file", tmp_path / "labels.parquet"]
    folder = parts_folder(tmp_path / "labels.parquet")
    run(recipe, *here, "--shard", "3/3")
    said = capsys.readouterr().out
    assert "Shard 3/3 is labelled; 9 of 13 parts are missing: part-000000, part-000001, part-000003," in said
    assert said.endswith("(of --shard 1/3, 2/3).\n")
    assert {path.stem for path in folder.glob("*.parquet")} == {f"part-{number:06d}" for number in (2, 5, 8, 11)}
    run(recipe, *here, "--shard", "2/4")  # another number of them divides the rest as well
    assert "part-000000, part-000003, part-000004" in capsys.readouterr().out
    run(recipe, *here, "--shard", "1/3")
    assert (
        "3 of 13 parts are missing: part-000004, part-000007, part-000010 (of --shard 2/3)" in capsys.readouterr().out
    )
    assert not (tmp_path / "labels.parquet").exists()
    (folder / "joined.parquet.host.123.tmp").write_text("of a join that was killed")
    (users := tmp_path / "labels.parquet.v2.1.tmp").write_text("a user's own")
    run(recipe, *here)
    assert users.exists()
    assert "Goes on with" in (said := capsys.readouterr().out) and "3 of 13 parts are missing: part-000004" in said
    assert (tmp_path / "labels.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not folder.exists()


def test_the_last_shard_says_that_none_is_missing(recipe, words, tmp_path, capsys):
    here = [*words, "--output_file", tmp_path / "labels.jsonl"]
    for shard in ("1/2", "2/2"):
        run(recipe, *here, "--shard", shard)
    assert "no part is missing: without --shard they are joined" in capsys.readouterr().out
    labelled = bulk.label_table
    try:
        bulk.label_table = lambda *_, **__: pytest.fail("labelled")
        run(recipe, *here)
    finally:
        bulk.label_table = labelled
    assert len((tmp_path / "labels.jsonl").read_text().splitlines()) == 100
    line = refused(capsys, recipe, *here, "--shard", "1/2")
    assert "expected no such file" in line and "or remove it" in line and "--overwrite_output" not in line


@pytest.mark.parametrize("shard", ["0/16", "17/16", "3/", "/3", "3", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_is_none(recipe, words, tmp_path, capsys, shard):
    line = refused(capsys, recipe, *words, "--output_file", tmp_path / "a.jsonl", f"--shard={shard}")
    assert f"Found --shard {shard}; expected one from 1/16 to 16/16" in line
    assert not parts_folder(tmp_path / "a.jsonl").exists()
    assert number_of_shard("16/16") == (15, 16)


def test_a_part_that_is_damaged_gone_or_of_another_run_is_labelled_anew(recipe, words, tmp_path, capsys):
    run(recipe, *words, "--output_file", tmp_path / "whole.csv")
    here, other = ([*words, "--output_file", tmp_path / f"{name}.csv", "--shard"] for name in ("labels", "other"))
    run(recipe, *other, "1/1", "--abstain_below", "0.99")
    run(recipe, *here, "1/2")
    folder, foreign = (parts_folder(tmp_path / f"{name}.csv") for name in ("labels", "other"))
    for path in foreign.glob("part-000004.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "part-000002.json").write_bytes(b"\xff")
    (folder / "part-000006.parquet").write_bytes(b"cut")
    (folder / "part-000000.parquet").unlink()
    run(recipe, *here, "2/2")
    assert "; 1 of 13 parts are missing: part-000000 (of --shard 1/2)" in capsys.readouterr().out
    run(recipe, *here[:-1])
    said = capsys.readouterr().out
    assert [f"part-00000{number}" for number in range(9) if f"part-00000{number}.parquet is damaged" in said] == [
        "part-000002",
        "part-000004",
        "part-000006",
    ]
    assert (tmp_path / "labels.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_shard_that_starts_while_others_join_labels_nothing(recipe, words, tmp_path, capsys, monkeypatch):
    here, opened = [*words, "--output_file", tmp_path / "labels.csv"], bulk.open_parts

    def joined_before(output_file, *args, **options):
        output_file.write_text("joined")
        return opened(output_file, *args, **options)

    monkeypatch.setitem(recipe.main.__globals__, "open_parts", joined_before)
    assert "expected no such file" in refused(capsys, recipe, *here, "--shard", "1/2")
    assert (tmp_path / "labels.csv").read_text() == "joined" and not parts_folder(tmp_path / "labels.csv").exists()


def test_what_other_shards_would_lose_or_mix_is_refused(recipe, words, tmp_path, capsys, monkeypatch):
    here = [*words, "--output_file", tmp_path / "labels.jsonl"]
    run(recipe, *here, "--shard", "1/2")
    folder = parts_folder(tmp_path / "labels.jsonl")
    there = sorted(folder.iterdir())
    for option in (["--rows_per_part", "9"], ["--abstain_below", "0.7"], ["--keep_columns", "false"]):
        line = refused(capsys, recipe, *here, "--shard", "2/2", *option)
        assert re.search(rf"Found parts of a run with another [\w ]*{option[0][2:]} in", line)
        assert f"end whatever writes to it and remove {folder}" in line and "--overwrite_output" not in line
    line = refused(capsys, recipe, *here, "--shard", "2/2", "--overwrite_output")
    assert "Found --overwrite_output with --shard 2/2; expected one of them" in line
    assert "Found --shard, which does nothing here" in refused(
        capsys, recipe, *words[:2], "--text", "good", "--shard", "1/2"
    )
    monkeypatch.setattr(bulk, "_LOCK_SECONDS", 0.2)
    for held, started in ((".lock-1-of-2", ["--shard", "01/2"]), (".lock-1-of-2", []), (".lock", ["--shard", "1/2"])):
        with FileLock(folder / held, is_singleton=False):
            assert "Found another run that is writing to" in refused(capsys, recipe, *here, *started)
    with FileLock(folder / ".lock-1-of-2", is_singleton=False):  # two shards are at work side by side
        assert "Found another run" in refused(capsys, recipe, *here, "--overwrite_output")
        run(recipe, *here, "--shard", "2/2")
    assert {*there} < {*folder.iterdir()}
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert "with --max_restarts 3" in refused(capsys, recipe, *here, "--overwrite_output")
