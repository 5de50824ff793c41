"""The snapshot that a run keeps as its best: the last, unless an earlier one is clearly nearer."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gan_refine.metrics import (
    FeatureStatistics,
    FrechetDistance,
    MetricCollection,
    Moments,
    Reference,
    Requirements,
    parse_metrics,
    reference_of,
)
from gan_refine.metrics.classifiers import FashionClassifier
from gan_refine.metrics.detectors import ClassifierDetector, Outputs
from gan_refine.run.choice import Ranked, choose, standard_error
from gan_refine.run.history import RunHistory


def exact(*values: float) -> list[Ranked]:
    """Distances without known parts, as those of kd."""
    return [Ranked(value) for value in values]


def noisy(value: float, *changes: float) -> Ranked:
    """A distance that is `value` + change without each part."""
    return Ranked(value, tuple(value + change for change in changes))


@pytest.mark.parametrize(
    ("original", "snapshots", "index"),
    [
        (3.0, exact(), None),
        (3.0, exact(3.0, 3.1), None),
        (3.0, exact(2.0, 1.9, 1.95), 1),  # without errors: the lowest
        (3.0, [noisy(2.0, 0.1, -0.1), noisy(2.1, -0.1, 0.1)], 1),  # 0.1 above, standard error of the difference 0.2
        (3.0, [noisy(2.0, 0.1, -0.1), noisy(2.5, -0.1, 0.1)], 0),
        (3.0, [noisy(2.0, 0.1, -0.1), noisy(2.1, 0.1, -0.1)], 0),  # the same latents are bad for both: clearly above
        (2.05, [noisy(2.0, 0.1, -0.1), noisy(2.1, -0.1, 0.1)], 0),  # above the original
        # Each a little above the one before: none may be clearly above the lowest.
        (3.0, [noisy(2.0 + 0.15 * n, *((0.1, -0.1) if n % 2 else (-0.1, 0.1))) for n in range(6)], 1),
    ],
)
def test_the_last_one_that_is_not_clearly_above_the_lowest(
    original: float, snapshots: Sequence[Ranked], index: int | None
) -> None:
    assert choose(Ranked(original), snapshots) == index
    history = RunHistory(before=original, best=original)
    taken = [number for number, snapshot in enumerate(snapshots) if history.chooses(snapshot)]
    assert (taken[-1] if taken else None) == index, "one after the other, as a run does it"


def test_a_checkpoint_of_an_earlier_version_goes_on_from_its_best() -> None:
    history = RunHistory(before=3.0, best=2.0)
    assert not history.chooses(Ranked(2.5, (2.4, 2.6)))
    assert history.chooses(Ranked(1.9, (1.8, 2.0)))
    assert (history.lowest, history.lowest_left_out) == (1.9, (1.8, 2.0))


def ranked(features: torch.Tensor, reference: Reference) -> Ranked:
    detector = ClassifierDetector("fashion16", FashionClassifier(16))
    detector.num_features = features.shape[1]
    kept = FeatureStatistics(detector, len(features), Requirements(blocks=True))
    kept.update(Outputs(features, None), 0)
    metric, whole = FrechetDistance(), kept.across_processes()
    return Ranked(metric(whole, reference)[""], metric.left_out(whole, reference))


def test_the_standard_error_is_the_deviation_over_sets_of_latents() -> None:
    reference = Reference(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    differences, errors = [], []
    for _ in range(100):
        latents = torch.randn(400, 4)
        a, b = ranked(1.3 * latents + 0.1, reference), ranked(1.2 * latents + 0.2, reference)
        differences.append(a.value - b.value)
        errors.append(standard_error(a, b))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences, ddof=1), rel=0.2)


def distance(features: torch.Tensor, reference: Reference) -> float:
    moments = Moments(features.shape[1])
    moments.update(features)
    return FrechetDistance().distance(moments, reference)


def test_each_eighth_of_the_images_is_left_out_once() -> None:
    features = torch.randn(16, 3)
    reference = Reference(torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    left_out = ranked(features, reference).left_out
    rests = [torch.cat([features[: 2 * n], features[2 * n + 2 :]]) for n in range(8)]
    assert left_out == pytest.approx([distance(rest, reference) for rest in rests], rel=1e-9)


@pytest.mark.parametrize(("metrics", "images", "parts"), [("fd", 16, 8), ("fd", 15, 0), ("kd,subset_size=5", 16, 0)])
def test_only_what_can_tell_its_error_does(metrics: str, images: int, parts: int) -> None:
    detector = ClassifierDetector("fashion16", FashionClassifier(16))
    shown = torch.randint(0, 256, [images, 1, 16, 16], dtype=torch.uint8)
    for left_out, expected in ((True, parts), (False, 0)):
        statistics = FeatureStatistics(detector, images, Requirements(sample=True))
        statistics.update(detector.outputs(shown.flip(3)), 0)
        kept = MetricCollection(detector, reference_of(statistics), images, parse_metrics(metrics), left_out=left_out)
        kept.update(shown)
        (result,) = kept.results()
        assert len(result.left_out) == expected
