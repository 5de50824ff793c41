"""The inception score (arXiv:1606.03498) in the classes of any detector that has some."""

from dataclasses import dataclass

from gan_refine.errors import MismatchError
from gan_refine.metrics.references import Reference
from gan_refine.metrics.statistics import NUM_SPLITS, Needs, Statistics


@dataclass(frozen=True)
class InceptionScore:
    """Mean and deviation (over N) over 10 consecutive splits. Needs no reference."""

    kind = "is"
    higher_is_better = True
    needs = Needs(classes=True, reference=False)

    def check(self, num_images: int, reference: Reference | None) -> None:
        """Raises MismatchError where a split has no image."""
        if num_images < NUM_SPLITS:
            raise MismatchError(f"is needs at least {NUM_SPLITS} images, one a split, and has {num_images}")

    def __call__(self, fake: Statistics, reference: Reference | None) -> dict[str, float]:
        assert fake.classes is not None, "asked for by needs"
        scores = fake.classes.scores()
        return {"": float(scores.mean()), "_std": float(scores.std(correction=0))}

    def facts(self, fake: Statistics, reference: Reference | None) -> dict[str, object]:
        return {"splits": NUM_SPLITS, "logits": "without bias where the detector is Inception"}
