"""What is shared of a run: a verified folder, and its way to the Hub."""

from pathlib import Path

import numpy as np
from httpx2 import HTTPError
from huggingface_hub import HfApi

from bertcls.inference import Text, TextClassifier

TOLERANCE = 1e-5  # of a logit, in fp32
PRIVATE_FILES = [
    "checkpoints/*",
    "predictions.parquet",
    "run.json",
    "training_args.bin",
]  # texts of others, paths, tokens


def verify_saved(folder: str, classifier: TextClassifier, texts: list[Text]) -> TextClassifier:
    """Loads a saved folder afresh and checks that it answers like the model in memory.

    Trainer's `training_args.bin` is removed: it holds local paths, and the Hub token where one was given.

    Args:
        folder: written by `save_pretrained` of the model and the tokenizer.
        classifier: the model in memory.
        texts: raw texts to compare on.

    Returns:
        the classifier that was loaded.

    Raises:
        ValueError: a logit differs by more than `TOLERANCE`.
    """
    Path(folder, "training_args.bin").unlink(missing_ok=True)
    loaded = TextClassifier.from_pretrained(folder, device=classifier.device)
    difference = float(np.abs(loaded.logits(texts) - classifier.logits(texts)).max())
    difference /= loaded.model.config.label_scale  # of a regression
    if not difference <= TOLERANCE:
        raise ValueError(
            f"The model saved in {folder} differs from the trained one by {difference:.2g} in a logit, expected at "
            f"most {TOLERANCE:.0e}. Do not use it; the checkpoints beside it are whole."
        )
    return loaded


def push_folder(
    folder: str,
    repo_id: str | None = None,
    *,
    token: str | None = None,
    private: bool | None = True,
    revision: str | None = None,
) -> str:
    """Uploads a verified folder in one commit, without checkpoints and predictions.

    Args:
        folder: of a finished run.
        repo_id: `owner/name`, made where it does not exist; `None` takes the folder's name.
        token: of the Hub; `None` takes the one of `hf auth login`.
        private: of a repository that is made.
        revision: branch.

    Returns:
        address of the commit.

    Raises:
        ConnectionError: the Hub refused or did not answer; the folder is as it was.
    """
    api, repo_id = HfApi(token=token), repo_id or Path(folder).name
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            ignore_patterns=PRIVATE_FILES,
            revision=revision,
            commit_message="Add model",
        )
    except (HTTPError, OSError) as error:
        raise ConnectionError(
            f"{repo_id} was not pushed ({' '.join(str(error).split())}); expected a repository that your token may "
            f"write. The model is safe in {folder}; push it again with bertcls.push_folder({folder!r}, {repo_id!r})."
        ) from error
    return str(commit)
