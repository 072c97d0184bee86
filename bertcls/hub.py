"""What is shared of a run: a folder that answers in a new process, and its way to the Hub.

`python -m bertcls.hub push FOLDER` pushes the folder of a finished run, with the token of `hf auth login` or HF_TOKEN.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

from bertcls.inference import Text, TextClassifier
from bertcls.layout import CARD, FOLDS, MODEL_FILES, PREDICTIONS, PUBLIC_FILES, RESULTS
from bertcls.modeling import REGRESSION
from bertcls.process import OptionParser, one_line_errors, read_json
from bertcls.text import load_steps, own_steps

TOLERANCE = 1e-5  # of a logit, in fp32
RECORDED_TOLERANCE = 1e-3  # of a probability that the run recorded, perhaps on another device
COMPARED = 16  # texts on which a saved model must answer as the trained one

_FRESH = """
import json, sys
sys.path.insert(0, sys.argv[1])
from bertcls import TextClassifier
texts = [text if isinstance(text, str) else tuple(text) for text in json.load(sys.stdin)]
print(json.dumps(TextClassifier.from_pretrained(sys.argv[2], device=sys.argv[3]).logits(texts).tolist()))
"""


def verify_saved(
    folder: str, classifier: TextClassifier, texts: list[Text], *, new_process: bool = True
) -> TextClassifier:
    """Loads a saved folder and checks that it answers like the model in memory, in a new process without network, too.

    Trainer's `training_args.bin` is removed: it holds local paths, and the Hub token where one was given.
    """
    Path(folder, "training_args.bin").unlink(missing_ok=True)
    loaded = TextClassifier.from_pretrained(folder, device=classifier.device)
    expected, found = classifier.logits(texts), {"": loaded.logits(texts)}
    if new_process and not own_steps(classifier.model.config.cleaning):  # whose functions it would not have
        found[" in a new process"] = _fresh_logits(folder, str(classifier.device), texts)
    for where, logits in found.items():
        difference = float(np.abs(logits - expected).max()) / loaded.model.config.label_scale
        if not difference <= TOLERANCE:
            raise ValueError(
                f"The model saved in {folder} differs from the trained one by {difference:.2g} in a logit{where}, "
                f"expected at most {TOLERANCE:.0e}. Do not use it; the checkpoints beside it are whole."
            )
    return loaded


def _fresh_logits(folder: str, device: str, texts: list[Text]) -> np.ndarray:
    # -P: nothing that lies in the working directory is imported in place of a library
    command = [sys.executable, "-P", "-c", _FRESH, str(Path(__file__).parents[1]), folder, device]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(
            f"The model saved in {folder} does not answer in a new process ({reason}); expected the answers of the "
            "trained one. Do not use it; the checkpoints beside it are whole."
        )
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def push_folder(
    folder: str,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = True,
    revision: str | None = None,
) -> str:
    """Uploads `PUBLIC_FILES` of a finished run in one commit, which removes those that an earlier push left, and gives
    its address.

    `repo_id` is `owner/name`; `None` takes the folder's name. It is made where it does not exist, `private` or not,
    and so is the branch `revision`. Without a `token` that of `hf auth login`, or of `HF_TOKEN`, is taken.

    Raises:
        FileNotFoundError: the folder is not that of a finished run.
        ConnectionError: the Hub refused or did not answer; the folder is as it was.
    """
    check_finished(folder)
    api, repo_id = HfApi(token=token), repo_id or Path(folder).resolve().name
    files = {name: str(Path(folder, name)) for name in PUBLIC_FILES if Path(folder, name).is_file()}
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        if CARD in files:
            files[CARD] = with_repo_id(Path(folder, CARD).read_text(encoding="utf-8"), repo).encode()
        stale = {*PUBLIC_FILES}.intersection(api.list_repo_files(repo, revision=revision)) - {*files, CARD}
        operations = [CommitOperationDelete(name) for name in sorted(stale)]
        operations += [CommitOperationAdd(name, content) for name, content in files.items()]
        # not upload_folder, which may split a long upload into several commits
        commit = api.create_commit(repo, operations, commit_message="Add model", revision=revision)
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        shown, secret = str(error), (token or get_token() or "").strip()
        for form in (secret, repr(secret)[1:-1]) if secret else ():
            shown = shown.replace(form, "***")
        retry = ["python", "-m", "bertcls.hub", "push", str(folder), "--repo_id", repo_id]
        retry += ["--public"] * (private is False) + (["--revision", revision] if revision is not None else [])
        raise ConnectionError(
            f"{repo_id} was not pushed ({' '.join(shown.split())}); expected a repository that your token may write. "
            f"The model is safe in {folder}; push it again: {shlex.join(retry)}"
        ) from (error if shown == str(error) else None)  # whose message would be shown with the traceback
    return str(commit)


def with_repo_id(card: str, repo_id: str) -> str:
    """A card with the title and the snippets of another repository."""
    if (found := re.search(r'TextClassifier\.from_pretrained\("([^"\n]+)"', card)) is None:
        return card
    title, new_title = (f"# {name.split('/')[-1]}\n" for name in (found[1], repo_id))
    snippets = re.compile(rf'(from_pretrained\(|model=)"{re.escape(found[1])}"')
    return snippets.sub(rf'\g<1>"{repo_id}"', card).replace(title, new_title, 1)


def check_finished(folder: str) -> None:
    """Refuses a folder that is not that of a finished run, or whose files lead out of it."""
    if missing := [name for name in (*MODEL_FILES, RESULTS) if not Path(folder, name).is_file()]:
        raise FileNotFoundError(
            f"{folder} is no folder of a finished run: it lacks {', '.join(missing)}; expected the --output_dir of a "
            "recipe that came to its end. Check the path, or finish the run with --resume_from_checkpoint."
        )
    for path in (Path(folder, name) for name in PUBLIC_FILES):
        if path.exists() and not path.resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"{path} leads to {path.resolve()}; expected a file of the run. Put the file there.")


def check_answers(folder: str) -> None:
    """Loads a finished run, and refuses it where it answers otherwise than when it was scored."""
    classifier = TextClassifier.from_pretrained(folder)
    config, path = classifier.model.config, Path(folder, PREDICTIONS)
    if not path.is_file() or read_json(Path(folder, RESULTS))["task"]["reported_split"] == FOLDS:
        return  # nothing to compare with: models of other rows gave the answers of --folds
    rows = next(pq.ParquetFile(path).iter_batches(COMPARED)).to_pydict()
    texts = rows["text"] if config.pair_truncation is None else list(zip(rows["text"], rows["text_pair"]))
    names = [f"probability_{name}" for name in classifier.label_names]
    names = ["prediction"] if config.problem_type == REGRESSION else names
    if not {*names} <= {*rows}:
        raise ValueError(f"The model in {folder} has other labels than {PREDICTIONS}; a file was changed since.")
    recorded = [rows[name] for name in names]
    difference = float(np.abs(classifier.probabilities(texts) - np.array(recorded).T).max()) / config.label_scale
    if not difference <= RECORDED_TOLERANCE:
        raise ValueError(
            f"The model in {folder} answers otherwise than when it was scored (by {difference:.2g}); expected the "
            f"probabilities in {PREDICTIONS}, to {RECORDED_TOLERANCE:.0e}. A file was changed since: train it again."
        )


def main(argv: list[str] | None = None) -> None:
    parser = OptionParser(__doc__, prog="python -m bertcls.hub")
    parser.add_argument("command", choices=["push"], help="checks the answers and pushes to a private repository")
    parser.add_argument("folder", help="--output_dir of the run")
    parser.add_argument("--repo_id", help="owner/name; the folder's name in your account where it is left out")
    parser.add_argument("--public", action="store_true", help="of a repository that is made: everyone may read it")
    parser.add_argument("--revision", help="branch, made where it does not exist")
    parser.add_argument("--steps", help="Python file with cleaning steps of your own, which the model names")
    args = parser.parse_args(argv)
    load_steps(args.steps)
    check_finished(args.folder)
    check_answers(args.folder)
    print(push_folder(args.folder, args.repo_id, private=not args.public, revision=args.revision))


if __name__ == "__main__":
    with one_line_errors():
        main()
