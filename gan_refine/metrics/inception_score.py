"""The inception score (arXiv:1606.03498), in the classes of any detector with a classifier."""

from dataclasses import dataclass

from gan_refine.errors import MismatchError
from gan_refine.metrics.metric import Metric
from gan_refine.metrics.references import Reference
from gan_refine.metrics.statistics import NUM_SPLITS, FeatureStatistics, Requirements


@dataclass(frozen=True)
class InceptionScore(Metric):
    """Mean and standard deviation (over N) of the scores of 10 consecutive splits. Ignores the reference."""

    kind = "is"
    better = {"": "higher"}

    @property
    def requirements(self) -> Requirements:
        return Requirements(classes=True, reference=False)

    def check(self, num_images: int, reference: Reference | None) -> None:
        if num_images < NUM_SPLITS:
            raise MismatchError(f"is needs at least {NUM_SPLITS} images, one for each split, and has {num_images}")

    def __call__(self, fake: FeatureStatistics, reference: Reference | None) -> dict[str, float]:
        assert fake.classes is not None, "collected because of the requirements"
        scores = fake.classes.scores()
        return {"": float(scores.mean()), "_std": float(scores.std(correction=0))}

    def convention(self, fake: FeatureStatistics, reference: Reference | None) -> dict[str, object]:
        return {"splits": NUM_SPLITS, "logits": "without bias where the detector is Inception"}
