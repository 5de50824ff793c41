"""Kernel distance, inception score, nearest neighbors, the feature sample, collections of metrics, several processes."""

import json

import numpy as np
import pytest
import torch
from golden_file import Golden

from gan_refine.errors import MismatchError
from gan_refine.metrics import (
    FeatureStatistics,
    FrechetDistance,
    MetricCollection,
    Moments,
    Reference,
    Requirements,
    frechet_distance,
    metric_name,
    parse_metrics,
)
from gan_refine.metrics.classifiers import FashionClassifier
from gan_refine.metrics.detectors import ClassifierDetector, Outputs
from gan_refine.metrics.kernel import KernelDistance, squared_mmd, subset_distances
from gan_refine.metrics.precision_recall import DensityCoverage, share_in_balls, squared_radii
from gan_refine.metrics.statistics import ClassStatistics, FeatureSample, hashes
from runs import Commands

GOLDEN = Golden("distances")
ALL = "fd,kd,subsets=5,subset_size=50,is,pr,dc"


@pytest.fixture
def detector() -> ClassifierDetector:
    return ClassifierDetector("fashion16", FashionClassifier(16))


def random_bytes(n: int) -> torch.Tensor:
    return torch.randint(0, 256, [n, 1, 16, 16], dtype=torch.uint8)


def reference_of(detector: ClassifierDetector, images: torch.Tensor, ddof: int = 1) -> Reference:
    kept = FeatureStatistics(detector, len(images), Requirements(sample=True))
    kept.update(detector.outputs(images), 0)
    assert kept.sample is not None
    covariance = kept.moments.covariance(ddof)
    return Reference(kept.moments.mean, covariance, len(images), ddof, detector.name, kept.sample.features)


class TestKernel:
    def test_published_value_on_the_same_subsets(self) -> None:
        expected = GOLDEN.meta["kernel"]
        values = subset_distances(GOLDEN["in/a"], GOLDEN["in/b"], KernelDistance(subsets=50, subset_size=200))
        assert float(values.mean()) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
        assert float(values.std(correction=0)) == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-6)

    def test_by_hand(self) -> None:
        a, b = torch.randn(2, 4, 3, dtype=torch.float64)
        kernel = lambda x, y: float((x @ y / 3 + 1) ** 3)  # noqa: E731
        within = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(4) for j in range(4) if i != j) / 12
        across = sum(kernel(x, y) for x in a for y in b) / 16
        assert float(squared_mmd(a, b)) == pytest.approx(within - 2 * across, rel=1e-12)

    def test_unbiased_between_equal_distributions(self) -> None:
        values = subset_distances(torch.randn(2000, 8), torch.randn(2000, 8), KernelDistance(50, 200))
        assert abs(float(values.mean())) < 5 * float(values.std()) / 50**0.5

    def test_too_few_images(self) -> None:
        with pytest.raises(MismatchError, match="kd needs 1000 images on each side and has 99"):
            subset_distances(torch.randn(99, 4), torch.randn(2000, 4), KernelDistance())


class TestInceptionScore:
    @pytest.mark.parametrize("batch", [1, 77, 600])
    def test_published_value(self, batch: int) -> None:
        expected, kept = GOLDEN.meta["inception_score"], ClassStatistics(600)
        for first in reversed(range(0, 600, batch)):  # the order of batches does not matter
            part = GOLDEN["in/logits"][first : first + batch]
            kept.update(part, torch.arange(first, first + len(part)))
        scores = kept.scores()
        assert float(scores.mean()) == pytest.approx(expected["inception_score_mean"], rel=1e-6)
        assert float(scores.std(correction=0)) == pytest.approx(expected["inception_score_std"], rel=1e-6)

    def test_limits(self) -> None:
        certain, uniform = ClassStatistics(50, 1), ClassStatistics(50, 1)
        certain.update(1e4 * torch.eye(5).repeat(10, 1), torch.arange(50))
        uniform.update(torch.zeros(50, 5), torch.arange(50))
        assert float(certain.scores()) == pytest.approx(5) and float(uniform.scores()) == pytest.approx(1)


class TestNearestNeighbors:
    def test_published_values(self) -> None:
        expected = GOLDEN.meta["precision_recall"]
        a, b = GOLDEN["in/a"], GOLDEN["in/b"]
        assert share_in_balls(a, b, 3) == pytest.approx(expected["precision"], rel=1e-6)
        assert share_in_balls(b, a, 3) == pytest.approx(expected["recall"], rel=1e-6)

    def test_radii_leave_the_vector_itself_out(self) -> None:
        line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
        assert squared_radii(line, 1).tolist() == pytest.approx([1, 1, 4, 16])
        assert squared_radii(line, 2).tolist() == pytest.approx([9, 4, 9, 36])

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = torch.randn(2, 120, 5)
        whole = share_in_balls(a, b, 3)
        monkeypatch.setattr("gan_refine.metrics.precision_recall.ROWS", 7)
        assert share_in_balls(a, b, 3) == whole

    def test_density_and_coverage_by_hand(self, detector: ClassifierDetector) -> None:
        made, real = random_bytes(40), random_bytes(60)
        a, b = detector(made).double(), detector(real).double()
        others = torch.cdist(b, b).fill_diagonal_(torch.inf).sort(dim=1).values
        covered = torch.cdist(a, b) <= others[:, 4]
        metrics = MetricCollection(detector, reference_of(detector, real), 40, [DensityCoverage(k=5)])
        metrics.update(made)
        values = metrics.result()
        assert values["dc40-fashion16_density"] == pytest.approx(float(covered.sum() / (5 * 40)))
        assert values["dc40-fashion16_coverage"] == pytest.approx(float(covered.any(dim=0).double().mean()))

    def test_one_pass_gives_what_the_separate_metrics_give(
        self, detector: ClassifierDetector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gan_refine.metrics.precision_recall.ROWS", 17)
        made, real = random_bytes(40), random_bytes(60)
        metrics = MetricCollection(detector, reference_of(detector, real), 40, parse_metrics("pr,dc,k=3,nn"))
        metrics.update(made)
        values = metrics.result()
        for name, kind in (("recall", "pr"), ("precision", "pr"), ("coverage", "dc")):
            assert values[f"nn40-fashion16_{name}"] == values[f"{kind}40-fashion16_{name}"]
        nearest = torch.cdist(detector(made).double(), detector(real).double()).amin(dim=1)
        assert values["nn40-fashion16_distance"] == pytest.approx(float(nearest.mean()), rel=1e-6)

    def test_too_few_images(self, detector: ClassifierDetector) -> None:
        with pytest.raises(MismatchError, match="pr with k=3 needs more than 3 images on each side and has 3 and 9"):
            MetricCollection(detector, reference_of(detector, random_bytes(9)), 3, parse_metrics("pr,k=3"))


class TestSample:
    def test_does_not_depend_on_order_and_batches(self) -> None:
        vectors = torch.randn(500, 3)
        one, many = FeatureSample(3, 50), FeatureSample(3, 50)
        one.update(vectors, torch.arange(500))
        order = torch.randperm(500)
        for part in order.split(7):
            many.update(vectors[part], part)
        assert torch.equal(one.indices, many.indices) and torch.equal(one.features, many.features)
        assert torch.equal(one.features, vectors[one.indices]) and len(one.indices) == 50

    def test_is_uniform_over_the_stream(self) -> None:
        sample = FeatureSample(1, 1000)
        for part in torch.arange(20_000).split(500):
            sample.update(torch.zeros(len(part), 1), part)
        counts = torch.bincount(sample.indices // 2000, minlength=10)
        assert counts.sum() == 1000 and counts.min() > 60 and counts.max() < 140
        assert len(hashes(torch.arange(10_000)).unique()) == 10_000

    def test_a_short_stream_is_kept_whole_and_in_order(self) -> None:
        vectors = torch.randn(20, 2)
        sample = FeatureSample(2)
        sample.update(vectors, torch.arange(20))
        assert torch.equal(sample.features, vectors)


class TestFrechetOfSamples:
    def test_n_for_n_minus_1_is_caught(self) -> None:
        value = GOLDEN.meta["frechet_distance"]["frechet_inception_distance"]
        sides = [Moments(24), Moments(24)]
        for side, name in zip(sides, "ab", strict=True):
            side.update(GOLDEN[f"in/{name}"])
        real = Reference(sides[1].mean, sides[1].covariance(1), 500, 1)
        assert FrechetDistance().distance(sides[0], real) == pytest.approx(value, rel=1e-6)
        assert FrechetDistance(ddof=0).distance(sides[0], real) != pytest.approx(value, rel=1e-5)

    def test_bias_of_samples_of_one_gaussian(self) -> None:
        # For N samples of N(0, I): E|m|^2 = d / N, and tr(S + I - 2 S^(1/2)) is tr((S - I)^2) / 4 to second order.
        n, d, values = 2000, 8, []
        zero, unit = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
        for _ in range(100):
            moments = Moments(d)
            moments.update(torch.randn(n, d))
            values.append(frechet_distance(moments.mean, moments.covariance(), zero, unit))
        expected = d / n + d * (d + 1) / (4 * (n - 1))
        assert np.mean(values) == pytest.approx(expected, rel=0.05)

    def test_infinity_takes_the_bias_away(self, detector: ClassifierDetector) -> None:
        # Features of the same Gaussian as the reference: the truth is 0, and 4,000 of them are measurably off it.
        detector.num_features = 16
        unit = Reference(torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64))
        kept = FeatureStatistics(detector, 4000, Requirements(blocks=True))
        for first in range(0, 4000, 300):
            kept.update(Outputs(torch.randn(min(300, 4000 - first), 16), None), first)
        values = FrechetDistance(infinity=True)(kept.across_processes(), unit)
        assert values[""] > 0.015 and abs(values["_infinity"]) < 0.25 * values[""]

    def test_infinity_needs_full_rank(self, detector: ClassifierDetector) -> None:
        reference = reference_of(detector, random_bytes(200))
        with pytest.raises(MismatchError, match="needs more than 1024 images"):
            MetricCollection(detector, reference, 1031, [FrechetDistance(infinity=True)])  # blocks of 128 images
        MetricCollection(detector, reference, 1032, [FrechetDistance(infinity=True)])

    @pytest.mark.parametrize(
        ("metrics", "message"),
        [
            ("is", "at least 10 images"),
            ("kd,subset_size=10", "needs 10 images on each side and has 9"),
            ("dc,k=9", "more than 9 images"),
            ("fd,pr", "only mean and covariance"),
        ],
    )
    def test_what_is_too_few_is_known_before_any_image(
        self, detector: ClassifierDetector, metrics: str, message: str
    ) -> None:
        reference = reference_of(detector, random_bytes(20))
        if metrics == "fd,pr":
            reference = Reference(reference.mean, reference.covariance)
        with pytest.raises(MismatchError, match=message):
            MetricCollection(detector, reference, 9, parse_metrics(metrics))

    def test_reference_is_brought_to_the_ddof_that_is_asked_for(self, detector: ClassifierDetector) -> None:
        images = random_bytes(5)
        for recorded in (0, 1):
            reference = reference_of(detector, images, recorded)
            for asked in (0, 1):
                metrics = MetricCollection(detector, reference, 5, [FrechetDistance(ddof=asked)])
                metrics.update(images)
                (result,) = metrics.results()
                assert result.values[result.metric] < 1e-9
                assert result.convention == {"ddof": asked, "reference_ddof": asked}

    def test_unknown_ddof_of_a_reference_is_said(self, detector: ClassifierDetector) -> None:
        bare = Reference(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
        kept = FeatureStatistics(detector, 2, Requirements())
        assert FrechetDistance(ddof=0).convention(kept, bare) == {"ddof": 0, "reference_ddof": "not recorded"}
        assert FrechetDistance().convention(kept, bare)["ddof"] == 1


class TestCollection:
    def test_all_metrics_from_one_pass(self, detector: ClassifierDetector, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        whole = detector.outputs
        reference = reference_of(detector, random_bytes(80))
        monkeypatch.setattr(detector, "outputs", lambda x: (seen.append(len(x)), whole(x))[1])
        metrics = MetricCollection(detector, reference, 100, parse_metrics(ALL))
        for part in random_bytes(130).split(40):
            metrics.update(part)
        assert sum(seen) == 100
        names = {"fd100-fashion16", "kd100-fashion16", "kd100-fashion16_std", "is100-fashion16", "is100-fashion16_std"}
        names |= {f"pr100-fashion16_{name}" for name in ("precision", "recall")}
        assert set(metrics.result()) == names | {f"dc100-fashion16_{name}" for name in ("density", "coverage")}

    def test_batches_and_their_order_do_not_matter(self, detector: ClassifierDetector) -> None:
        reference, images = reference_of(detector, random_bytes(80)), random_bytes(100)
        one, many = (MetricCollection(detector, reference, 100, parse_metrics(ALL)) for _ in range(2))
        one.update(images)
        for first in (75, 0, 25, 50):
            many.update(images[first : first + 25], first)
        assert many.result() == pytest.approx(one.result(), rel=1e-5)

    def test_float64_features_give_the_same_moments(self, detector: ClassifierDetector) -> None:
        features = torch.randn(200, 128)
        sides = [Moments(128), Moments(128)]
        sides[0].update(features)
        sides[1].update(features.double())
        assert torch.equal(sides[0].scatter, sides[1].scatter)

    def test_the_same_images_are_at_zero(self, detector: ClassifierDetector) -> None:
        images = random_bytes(300)
        metrics = MetricCollection(detector, reference_of(detector, images), 300, parse_metrics("fd,pr,dc"))
        metrics.update(images)
        values = metrics.result()
        assert values["fd300-fashion16"] < 1e-9
        assert values["pr300-fashion16_precision"] == values["pr300-fashion16_recall"] == 1
        assert values["dc300-fashion16_coverage"] == 1

    def test_the_size_of_a_sample_is_stated(
        self, detector: ClassifierDetector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gan_refine.metrics.statistics.SAMPLE_SIZE", 30)
        metrics = MetricCollection(
            detector, reference_of(detector, random_bytes(25)), 50, parse_metrics("kd,subset_size=20,pr,dc")
        )
        metrics.update(random_bytes(50))
        assert [result.convention["sample_sizes"] for result in metrics.results()] == [[30, 25]] * 3

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_features_that_are_not_finite(self, detector: ClassifierDetector, value: float) -> None:
        kept = FeatureStatistics(detector, 4, Requirements())
        features = torch.zeros(4, 128)
        features[2, 5] = value
        with pytest.raises(MismatchError, match="not finite"):
            kept.update(Outputs(features, None), 0)

    def test_without_classes_there_is_no_inception_score(self, detector: ClassifierDetector) -> None:
        kept = FeatureStatistics(detector, 4, Requirements(classes=True))
        with pytest.raises(MismatchError, match="has no classifier"):
            kept.update(Outputs(torch.zeros(4, 128), None), 0)


NAMES = [
    (("inception", 50_000, "fd", "data"), "fid50k_full"),
    (("inception", 50_000, "kd", "data"), "kid50k-inception"),  # the field's draws from all images, this from a sample
    (("inception", 10_000, "fd", "data"), "fid10k-inception"),
    (("inception", 50_000, "fd", "teacher"), "fd50k-inception-teacher"),
    (("inception-768", 50_000, "fd", "data"), "fd50k-inception-768"),
    (("inception-12ab34cd", 50_000, "fd", "data"), "fd50k-inception-12ab34cd"),
    (("ts-inception-12ab34cd", 50_000, "fd", "data"), "fd50k-ts-inception-12ab34cd"),
    (("fashion16", 10_000, "fd", "data"), "fd10k-fashion16"),
    (("efficientnet-lite0", 1_234, "kd", "data"), "kd1234-efficientnet-lite0"),
    (("inception", 50_000, "is", "teacher"), "is50k-inception"),
]


@pytest.mark.parametrize(("arguments", "expected"), NAMES)
def test_no_metric_is_called_what_it_is_not(arguments: tuple[str, int, str, str], expected: str) -> None:
    assert metric_name(*arguments) == expected


WORKER = """
import json, sys, torch
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import FeatureStatistics, Reference, Requirements, parse_metrics
from gan_refine.metrics.classifiers import FashionClassifier
from gan_refine.metrics.detectors import ClassifierDetector
from gan_refine.evaluation import Yardstick, Yardsticks
from torch_utils import distributed
torch.set_num_threads(1)
torch.manual_seed(0)
detector = ClassifierDetector("fashion16", FashionClassifier(16))
kept = FeatureStatistics(detector, 300, Requirements(sample=True))
kept.update(detector.outputs(torch.randint(0, 256, [300, 1, 16, 16], dtype=torch.uint8)), 0)
reference = Reference(kept.moments.mean, kept.moments.covariance(), 300, 1, None, kept.sample.features)
distributed.init()
metrics = tuple(parse_metrics("fd,infinity=true,kd,subsets=3,subset_size=100,is,pr,dc"))
yardsticks = Yardsticks((Yardstick(detector, (reference,)),), metrics, 1100)
results = yardsticks.measure(AffineGenerator(0.3, 0.1, ImageSpec(1, 16)), seed=3)
print(json.dumps({name: value for result in results for name, value in result.values.items()}))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def metrics_of(commands: Commands, processes: int) -> list[dict[str, float]]:
    """What each of so many processes prints."""
    ended = commands.script(WORKER, {"CUDA_VISIBLE_DEVICES": ""}, processes)
    assert ended.codes == [0] * processes, ended.stderr
    return [json.loads(commands.said("stdout", rank)) for rank in range(processes)]


def test_two_processes_give_the_metrics_of_one(commands: Commands) -> None:
    (alone,), both = metrics_of(commands, 1), metrics_of(commands, 2)
    assert len(alone) == 10
    for found in both:
        assert found == pytest.approx(alone, rel=1e-10)
