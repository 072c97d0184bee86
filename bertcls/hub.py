"""What is shared of a run."""

import numpy as np

from bertcls.inference import TextClassifier

TOLERANCE = 1e-5  # of a logit, in fp32


def verify_saved(folder: str, classifier: TextClassifier, texts: list[str]) -> TextClassifier:
    """Loads a saved folder afresh and checks that it answers like the model in memory.

    Args:
        folder: written by `save_pretrained` of the model and the tokenizer.
        classifier: the model in memory.
        texts: raw texts to compare on.

    Returns:
        the classifier that was loaded.

    Raises:
        ValueError: a logit differs by more than `TOLERANCE`.
    """
    loaded = TextClassifier.from_pretrained(folder, device=classifier.device)
    difference = float(np.abs(loaded.logits(texts) - classifier.logits(texts)).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"The model saved in {folder} differs from the trained one by {difference:.2g} in a logit, expected at "
            f"most {TOLERANCE:.0e}. Do not use it; the checkpoints beside it are whole."
        )
    return loaded
