"""The simple model that an encoder has to beat."""

import warnings
from dataclasses import KW_ONLY, dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from bertcls.inference import Text
from bertcls.metrics import tune_thresholds
from bertcls.modeling import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from bertcls.text import CJK_CHARACTER, clean_all

_CJK_SHARE = 0.2  # of all characters, from which on words are not parted by blanks


@dataclass(eq=False)
class TfidfClassifier:
    """TF-IDF of words and pairs of words with logistic regression, one a label of several; of numbers with ridge.

    It answers like `TextClassifier`, so that `score_reported` takes it. A multi-label model gives a label from a
    probability of 0.5 on, or after `tune` from its `thresholds` on. A regression takes no `class_weight`.
    """

    num_labels: int  # 1 of a regression
    _: KW_ONLY
    problem_type: str = SINGLE_LABEL
    analyzer: str | None = None  # word, or char for characters and pairs of them; none: char for Chinese and Japanese
    cleaning: list[str] | None = None  # steps of bertcls.text
    min_df: int = 2  # texts that a word must stand in
    C: float = 10.0  # inverse strength of the L2 penalty; alpha of ridge is 10 / C, scikit-learn's default at C = 10
    class_weight: str | None = None  # balanced, in scikit-learn's sense
    thresholds: list[float] | None = None

    def __post_init__(self):
        self.regression = LogisticRegression(C=self.C, max_iter=2000, class_weight=self.class_weight)
        if self.problem_type == MULTI_LABEL:
            self.regression = OneVsRestClassifier(self.regression)
        elif self.problem_type == REGRESSION:
            self.regression = Ridge(alpha=10 / self.C)
            if self.class_weight is not None:
                raise ValueError("Found class weights with a regression; expected none. Leave them out.")

    def fit(self, texts: list[Text], labels: np.ndarray | list[int]) -> "TfidfClassifier":
        """Learns from texts or pairs, and their labels as `label_array` gives them.

        Raises:
            ValueError: no word stands in `min_df` texts, or there is one class only.
        """
        if self.problem_type != REGRESSION and len(np.unique(labels, axis=0)) < 2:
            raise ValueError(f"Found one class in {len(texts)} training texts; expected two. Add rows of others.")
        read = cleaned_texts(texts, self.cleaning)
        sample = "".join(read[:200])[:100_000]
        cjk = len(CJK_CHARACTER.findall(sample)) > _CJK_SHARE * len(sample)
        options = {"ngram_range": (1, 2), "min_df": self.min_df, "sublinear_tf": True, "dtype": np.float32}
        self.vectorizer = TfidfVectorizer(analyzer=self.analyzer or ("char" if cjk else "word"), **options)
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

    def tune(self, texts: list[Text], labels: np.ndarray) -> None:
        """Sets the thresholds of a multi-label model on validation, as those of an encoder are; nothing of another."""
        if self.problem_type == MULTI_LABEL:
            self.thresholds = tune_thresholds(self.probabilities(texts), labels)

    def probabilities(self, texts: list[Text], *, progress: bool = False) -> np.ndarray:
        """Probabilities `[texts, num_labels]`, 0 for a class that no training text has; values of a regression."""
        counted = self._counted(texts)
        if self.problem_type == REGRESSION:
            return self.regression.predict(counted)[:, None]
        result = np.zeros((len(texts), self.num_labels))
        result[:, self.regression.classes_] = self.regression.predict_proba(counted)
        return result

    def weights(self, label: int) -> dict[str, float]:
        """What each word and pair of words weighs for a label, or for the number of a regression; nothing where train
        has no such label."""
        if self.problem_type == MULTI_LABEL:
            rows = getattr(self.regression.estimators_[label], "coef_", ())
        elif self.problem_type == REGRESSION:
            rows = [self.regression.coef_]
        else:
            known, rows = [*self.regression.classes_], self.regression.coef_
            rows = [-rows[0], rows[0]] if len(rows) == 1 else rows  # of two classes
            rows = [rows[known.index(label)]] if label in known else ()
        return dict(zip(self.vectorizer.get_feature_names_out(), rows[0].tolist())) if len(rows) else {}

    def similar(self, texts: list[Text], count: int = 3) -> list[list[tuple[int, float]]]:
        """For each text the rows of the training texts with the largest cosines, and these; without those at 0."""
        found = []
        for row in sparse.csr_matrix(self._counted(texts) @ self.matrix.T):  # [1, training texts]
            best = np.argsort(-row.data, kind="stable")[:count]
            found.append(list(zip(row.indices[best].tolist(), row.data[best].tolist())))
        return found

    def _counted(self, texts: list[Text]) -> sparse.csr_matrix:
        return self.vectorizer.transform(cleaned_texts(texts, self.cleaning))


def cleaned_texts(texts: list[Text], cleaning: list[str] | None) -> list[str]:
    """Texts after the cleaning steps; the two of a pair in one."""
    return clean_all((text if isinstance(text, str) else " ".join(text) for text in texts), cleaning)
