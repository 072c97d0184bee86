"""The simple model that an encoder has to beat."""

import warnings

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from bertcls.metrics import tune_thresholds
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.text import CJK_CHARACTER, clean_all

_CJK_SHARE = 0.2  # of all characters, from which on words are not parted by blanks


class TfidfClassifier:
    """TF-IDF of words and pairs of words with logistic regression; of numbers with ridge regression.

    It answers like `TextClassifier`, so that `score_reported` takes it.

    Args:
        num_labels: classes; 1 for a regression.
        problem_type: `single_label_classification`, `multi_label_classification` (a logistic regression a label) or
            `regression`.
        analyzer: `word`, or `char` for characters and pairs of them; `None` takes `char` for Chinese and Japanese.
        cleaning: steps of `bertcls.text`.
        min_df: texts that a word must stand in.
        C: inverse strength of the L2 penalty; of a ridge regression alpha is 10 / C, scikit-learn's default at C = 10.
        class_weight: `balanced` or `None`, in scikit-learn's sense; not of a regression.

    A multi-label model gives a label from a probability of 0.5 on, or after `tune` from its `thresholds` on.

    Raises:
        ValueError: `class_weight` with a regression.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        problem_type: str = SINGLE_LABEL,
        analyzer: str | None = None,
        cleaning: list[str] | None = None,
        min_df: int = 2,
        C: float = 10.0,
        class_weight: str | None = None,
    ):
        if problem_type == REGRESSION and class_weight is not None:
            raise ValueError(f"Found class_weight={class_weight!r} with a regression; expected none. Leave it out.")
        self.num_labels, self.problem_type, self.thresholds = num_labels, problem_type, None
        self.analyzer, self.cleaning, self.min_df = analyzer, cleaning, min_df
        self.regression = LogisticRegression(C=C, max_iter=2000, class_weight=class_weight)
        if problem_type == MULTI_LABEL:
            self.regression = OneVsRestClassifier(self.regression)
        elif problem_type == REGRESSION:
            self.regression = Ridge(alpha=10 / C)

    def fit(self, texts: list[str | tuple[str, str]], labels: np.ndarray | list[int]) -> "TfidfClassifier":
        """Learns from texts or pairs.

        Args:
            texts: of train.
            labels: class numbers or values `[texts]`, or of several labels 0 and 1 `[texts, num_labels]`.

        Raises:
            ValueError: no word stands in `min_df` texts, or there is one class only.
        """
        if self.problem_type != REGRESSION and len(np.unique(labels, axis=0)) < 2:
            raise ValueError(
                f"Found one class in {len(texts)} training texts; expected two or more. Add rows of others."
            )
        read = cleaned_texts(texts, self.cleaning)
        analyzer = self.analyzer or ("char" if _is_cjk(read) else "word")
        self.vectorizer = TfidfVectorizer(
            analyzer=analyzer, ngram_range=(1, 2), min_df=self.min_df, sublinear_tf=True, dtype=np.float32
        )
        try:
            self.matrix = self.vectorizer.fit_transform(read)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Label .* is present in all")  # a label that none has
                self.regression.fit(self.matrix, labels)
        except ValueError as error:
            raise ValueError(
                f"Found no words to count in {len(texts)} training texts ({error}); expected words that stand in "
                f"{self.min_df} texts or more. Add texts, or lower min_df."
            ) from error
        return self

    def tune(self, texts: list[str | tuple[str, str]], labels: np.ndarray) -> "TfidfClassifier":
        """Sets the thresholds of a multi-label model as those of an encoder are; does nothing to another.

        Args:
            texts: of validation.
            labels: 0 and 1 `[texts, num_labels]`.
        """
        if self.problem_type == MULTI_LABEL:
            self.thresholds = tune_thresholds(self.probabilities(texts), labels)
        return self

    def probabilities(self, texts: list[str | tuple[str, str]], *, progress: bool = False) -> np.ndarray:
        """Probabilities `[texts, num_labels]`, 0 for a class that no training text has; values of a regression."""
        counted = self.vectorizer.transform(cleaned_texts(texts, self.cleaning))
        if self.problem_type == REGRESSION:
            return self.regression.predict(counted)[:, None]
        result = np.zeros((len(texts), self.num_labels))
        result[:, self.regression.classes_] = self.regression.predict_proba(counted)
        return result

    def similar(self, texts: list[str | tuple[str, str]], count: int = 3) -> list[list[tuple[int, float]]]:
        """For each text the rows of the training texts with the largest cosines, and these; without those at 0."""
        counted = self.vectorizer.transform(cleaned_texts(texts, self.cleaning))
        cosines = counted @ self.matrix.T  # [texts, training texts], sparse
        found = []
        for row in sparse.csr_matrix(cosines):
            best = row.indices[np.argsort(-row.data, kind="stable")[:count]]
            found.append([(int(number), float(row[0, number])) for number in best])
        return found


def cleaned_texts(texts: list[str | tuple[str, str]], cleaning: list[str] | None) -> list[str]:
    """Texts after the cleaning steps; the two of a pair in one.

    >>> cleaned_texts(["a  b", ("c", "d")], ["collapse_blanks"])
    ['a b', 'c d']
    """
    return clean_all((text if isinstance(text, str) else " ".join(text) for text in texts), cleaning)


def _is_cjk(texts: list[str]) -> bool:
    """Whether more than a fifth of the characters of the first texts are Chinese characters or kana.

    >>> _is_cjk(["这部电影很好看。"]), _is_cjk(["a good film"])
    (True, False)
    """
    sample = "".join(texts[:200])[:100_000]
    return len(CJK_CHARACTER.findall(sample)) > _CJK_SHARE * max(len(sample), 1)
