"""What a version in service answers, counted so that a drift of its answers shows."""

from collections.abc import Sequence

from .metrics import Metrics


class Drift:
    """What one version in service answers: images by best label, and how sure of it the model was.

    Shares of these that move while the cameras stay the same are the sign of a model that no longer fits what it sees.
    """

    def __init__(self, metrics: Metrics, *, model_id: str, version: int, labels: Sequence[str]) -> None:
        self._metrics = metrics
        self._of, self._labels = (model_id, str(version)), frozenset(labels)
        # Made now, each at 0: a label that is never seen is a share of 0 and not a gap.
        self._predictions = [metrics.predictions.labels(*self._of, label) for label in labels]
        self._top_score = metrics.top_score.labels(*self._of)
        self._unknown = metrics.unknown.labels(*self._of)

    def observe(self, label_index: int, score: float, unknown_score: float | None) -> None:
        """Counts an answered image by its best label, that label's probability, and whether it is likely of none."""
        self._predictions[label_index].inc()
        self._top_score.observe(score)
        if unknown_score is not None and unknown_score > 1:
            self._unknown.inc()

    def forget(self, successor: "Drift") -> None:
        """Drops the series that `successor`, which is served now, does not go on with."""
        same = self._of == successor._of
        for label in self._labels - (successor._labels if same else frozenset()):
            self._metrics.predictions.remove(*self._of, label)
        if not same:
            self._metrics.top_score.remove(*self._of)
            self._metrics.unknown.remove(*self._of)
