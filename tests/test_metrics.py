"""gan_refine.metrics: moments, Frechet distance, detectors, references, the metric."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_file import Golden
from safetensors.torch import save_file

from gan_refine.errors import FileFormatError, MismatchError
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import (
    MetricCollection,
    Moments,
    frechet_distance,
    load_detector,
    load_reference,
)
from gan_refine.metrics.classifiers import Classifier, FashionClassifier, ResidualClassifier
from gan_refine.metrics.detectors import ClassifierDetector, save_detector
from gan_refine.metrics.references import Reference, save_reference
from gan_refine.pixels import from_uint8, to_uint8


def moments_of(features: torch.Tensor, batch: int = 64) -> Moments:
    moments = Moments(features.shape[1])
    for part in features.split(batch):
        moments.update(part)
    return moments


def distance(a: Moments, b: Moments) -> float:
    return frechet_distance(a.mean, a.covariance(), b.mean, b.covariance())


def spread(num_features: int, rank: int, seed: int) -> torch.Tensor:
    """A random covariance of that rank."""
    factor = torch.randn(num_features, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T


class TestMoments:
    features = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 3

    @pytest.mark.parametrize("ddof", [0, 1])
    def test_agree_with_numpy(self, ddof: int) -> None:
        moments, exact = moments_of(self.features), self.features.double().numpy()
        np.testing.assert_allclose(moments.mean.numpy(), exact.mean(0), rtol=1e-13)
        np.testing.assert_allclose(moments.covariance(ddof).numpy(), np.cov(exact.T, ddof=ddof), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("batch", [1, 7, 64, 499])
    def test_do_not_depend_on_batches(self, batch: int) -> None:
        one, many = moments_of(self.features, 500), moments_of(self.features, batch)
        assert many.count == 500
        torch.testing.assert_close(many.covariance(), one.covariance(), rtol=1e-12, atol=1e-12)

    def test_do_not_depend_on_order(self) -> None:
        shuffled = self.features[torch.randperm(500)]
        torch.testing.assert_close(
            moments_of(shuffled).covariance(), moments_of(self.features).covariance(), rtol=1e-12, atol=1e-12
        )

    def test_merge_is_the_same_as_one_stream(self) -> None:
        merged = moments_of(self.features[:123])
        merged.merge(moments_of(self.features[123:]))
        merged.merge(Moments(6))
        one = moments_of(self.features)
        assert merged.count == 500
        torch.testing.assert_close(merged.mean, one.mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(merged.scatter, one.scatter, rtol=1e-12, atol=1e-9)

    def test_a_large_mean_costs_no_digits(self) -> None:
        small = self.features.double() * 1e-3
        shifted = moments_of(small + 1e6, 10).covariance()
        torch.testing.assert_close(shifted, moments_of(small).covariance(), rtol=1e-5, atol=1e-11)
        far = small + 1e6  # the difference of raw sums is off by more than the value itself
        naive = far.T @ far / 500 - torch.outer(far.mean(0), far.mean(0))
        assert (naive - shifted).abs().max() > shifted.abs().max()

    def test_too_few_vectors_have_no_covariance(self) -> None:
        with pytest.raises(ValueError, match="more than 1"):
            moments_of(self.features[:1]).covariance()


class TestFrechet:
    def test_published_value(self) -> None:
        golden = Golden("distances")
        value = golden.meta["frechet_distance"]["frechet_inception_distance"]
        assert distance(moments_of(golden["in/a"]), moments_of(golden["in/b"])) == pytest.approx(value, rel=1e-6)

    def test_commuting_covariances_have_a_closed_form(self) -> None:
        rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
        a, b = torch.rand(2, 5, dtype=torch.float64)
        means = torch.randn(2, 5, dtype=torch.float64)
        covariances = [rotation @ torch.diag(deviation**2) @ rotation.T for deviation in (a, b)]
        exact = float((means[0] - means[1]).square().sum() + (a - b).square().sum())
        assert frechet_distance(means[0], covariances[0], means[1], covariances[1]) == pytest.approx(exact, rel=1e-10)

    def test_one_dimension(self) -> None:
        one = torch.ones(1, dtype=torch.float64)
        assert frechet_distance(one, torch.diag(4 * one), 3 * one, torch.diag(25 * one)) == pytest.approx(4 + 9)

    def test_non_commuting_two_by_two(self) -> None:
        # tr of a 2x2 root is sqrt(tr M + 2 sqrt(det M)), with M = C_a C_b
        a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        b = torch.tensor([[5.0, -2.0], [-2.0, 1.5]], dtype=torch.float64)
        product, zero = a @ b, torch.zeros(2, dtype=torch.float64)
        exact = float(a.trace() + b.trace() - 2 * (product.trace() + 2 * product.det().sqrt()).sqrt())
        assert exact > 0.1
        assert frechet_distance(zero, a, zero, b) == pytest.approx(exact, rel=1e-12)

    @pytest.mark.parametrize("rank", [1, 5, 40])
    def test_identical_is_zero_at_any_rank(self, rank: int) -> None:
        covariance, mean = spread(40, rank, 0), torch.randn(40, dtype=torch.float64)
        assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-9)

    def test_both_kinds_of_factor_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b, mean = spread(30, 90, 0), spread(30, 90, 1), torch.randn(30, dtype=torch.float64)
        quick = frechet_distance(mean, a, -mean, b)
        failing = lambda matrix: (matrix, torch.tensor(1))  # noqa: E731
        monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
        assert frechet_distance(mean, a, -mean, b) == pytest.approx(quick, rel=1e-12)

    def test_rank_deficient(self) -> None:
        # scaling by 4 doubles every deviation: the distance is tr(C) (2 - 1)^2, whatever the rank
        covariance, zero = spread(40, 3, 1), torch.zeros(40, dtype=torch.float64)
        assert frechet_distance(zero, covariance, zero, 4 * covariance) == pytest.approx(
            float(covariance.trace()), rel=1e-10
        )

    def test_orthogonal_supports_share_nothing(self) -> None:
        left, right = torch.zeros(2, 6, dtype=torch.float64)
        left[:3], right[3:] = 2.0, 3.0
        zero = torch.zeros(6, dtype=torch.float64)
        exact = 3 * 2.0 + 3 * 3.0
        assert frechet_distance(zero, torch.diag(left), zero, torch.diag(right)) == pytest.approx(exact, rel=1e-12)

    def test_symmetric(self) -> None:
        a, b, mean = spread(10, 10, 0), spread(10, 4, 1), torch.randn(10, dtype=torch.float64)
        assert frechet_distance(mean, a, -mean, b) == pytest.approx(frechet_distance(-mean, b, mean, a), rel=1e-12)


@pytest.fixture
def detector() -> ClassifierDetector:
    return ClassifierDetector("fashion16", FashionClassifier(16))


def random_bytes(n: int, resolution: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, [n, 1, resolution, resolution], dtype=torch.uint8)


class TestDetectors:
    @pytest.mark.parametrize(
        "network", [FashionClassifier(16), FashionClassifier(32), ResidualClassifier(16)], ids=["16", "32", "residual"]
    )
    def test_features_are_those_of_each_image_alone(self, network: Classifier) -> None:
        found = ClassifierDetector("x", network)
        images = random_bytes(12, network.spec.resolution)
        features = found(images)
        assert features.shape == (12, network.num_features) and features.dtype == torch.float32
        torch.testing.assert_close(torch.cat([found(part) for part in images.split(5)]), features, rtol=1e-4, atol=1e-6)

    def test_bytes_become_minus_one_to_one(self, detector: ClassifierDetector) -> None:
        for byte, value in ((0, -1.0), (255, 1.0)):
            images = torch.full([1, 1, 16, 16], byte, dtype=torch.uint8)
            expected = detector.network.features(torch.full([1, 1, 16, 16], value))
            torch.testing.assert_close(detector(images), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        "images", [random_bytes(1, 32), random_bytes(1).expand(1, 3, 16, 16)], ids=["resolution", "channels"]
    )
    def test_other_images_are_refused(self, detector: ClassifierDetector, images: torch.Tensor) -> None:
        with pytest.raises(MismatchError, match=r"takes uint8 images \[N, 1, 16, 16\]"):
            detector(images)

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_files_give_the_same_features(self, detector: ClassifierDetector, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"fashion16-detector.{suffix}"
        if suffix == "safetensors":
            save_detector(path, "fashion16", detector.network)
        else:
            text = json.dumps(
                {"architecture": "FashionClassifier", "name": "fashion16", "resolution": 16, "num_features": 128}
            )
            torch.save({"detector": text, "weights": detector.network.state_dict()}, path)
        images = random_bytes(3)
        again = load_detector(path)
        assert again.name == "fashion16" and again.spec == ImageSpec(1, 16) and again.num_features == 128
        assert torch.equal(again(images), detector(images))

    def test_folder(self, detector: ClassifierDetector, tmp_path: Path) -> None:
        save_detector(tmp_path / "a-detector.safetensors", "a", detector.network)
        assert load_detector(tmp_path).name == "a"
        save_detector(tmp_path / "b-detector.safetensors", "b", detector.network)
        assert load_detector(tmp_path, "b").name == "b"
        with pytest.raises(FileFormatError, match="it holds: a, b"):
            load_detector(tmp_path)

    def test_damaged_files_are_one_line_errors(self, detector: ClassifierDetector, tmp_path: Path) -> None:
        weights = {key: value.contiguous() for key, value in detector.network.state_dict().items()}
        plain, wide, alien = (tmp_path / f"{name}.safetensors" for name in ("plain", "wide", "alien"))
        save_file(weights, plain)
        described = {"architecture": "FashionClassifier", "name": "x", "resolution": 16, "num_features": 10**12}
        save_file(weights, wide, metadata={"detector": json.dumps(described)})
        save_file(weights, alien, metadata={"detector": json.dumps({**described, "architecture": "os.system"})})
        text, hostile = tmp_path / "text.safetensors", tmp_path / "hostile.pt"
        text.write_text("no tensors here")
        torch.save({"detector": Path("x"), "weights": print}, hostile)
        for path in (plain, wide, alien, text, hostile, tmp_path / "missing.safetensors"):
            with pytest.raises(FileFormatError) as caught:
                load_detector(path)
            assert "\n" not in str(caught.value), path


class TestReferences:
    reference = Reference(torch.arange(3.0, dtype=torch.float64), spread(3, 3, 0), 60_000, 1, "fashion16")

    def test_round_trip_is_exact(self, tmp_path: Path) -> None:
        save_reference(tmp_path / "r.npz", self.reference)
        again = load_reference(tmp_path / "r.npz")
        assert torch.equal(again.mean, self.reference.mean) and torch.equal(again.covariance, self.reference.covariance)
        assert (again.num_images, again.ddof, again.detector) == (60_000, 1, "fashion16")

    def test_published_files_hold_mu_and_sigma_alone(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "r.npz", mu=np.zeros(4, np.float32), sigma=np.eye(4, dtype=np.float32))
        again = load_reference(tmp_path / "r.npz")
        assert again.mean.dtype == torch.float64 and again.num_images is again.ddof is again.detector is None

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"mu": np.zeros(3)}, "lacks sigma"),
            ({"mu": np.zeros(3), "sigma": np.eye(4)}, "covariance"),
            ({"mu": np.zeros(2), "sigma": np.array([[1.0, np.nan], [np.nan, 1.0]])}, "not finite"),
            ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
            ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.0], [0.0, -1.0]])}, "negative variances"),
            ({"mu": np.zeros(2), "sigma": np.eye(2), "num_images": 9, "ddof": 2}, "ddof is 0 or 1"),
            ({"mu": np.array([print, 1], dtype=object), "sigma": np.eye(2)}, "without pickles"),
            ({"mu": np.array(["a"]), "sigma": np.eye(1)}, "wrong kind"),
            ({"mu": np.zeros(1), "sigma": np.eye(1), "num_images": np.zeros(2)}, "wrong kind"),
        ],
    )
    def test_damaged_files_are_one_line_errors(self, arrays: dict, message: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "r.npz", **arrays)
        with pytest.raises(FileFormatError, match=message) as caught:
            load_reference(tmp_path / "r.npz")
        assert "\n" not in str(caught.value)

    def test_files_that_are_no_npz(self, tmp_path: Path) -> None:
        text, single = tmp_path / "text.npz", tmp_path / "single.npz"
        text.write_text("no arrays here")
        np.save(tmp_path / "single.npy", np.zeros(3))
        (tmp_path / "single.npy").rename(single)
        for path in (text, single, tmp_path / "missing.npz"):
            with pytest.raises(FileFormatError) as caught:
                load_reference(path)
            assert "allow_pickle" not in str(caught.value), "numpy's advice is none to give"

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_damage_anywhere_is_an_error_or_harmless(self, save: Callable, tmp_path: Path) -> None:
        path, rng, refused = tmp_path / "r.npz", np.random.default_rng(0), 0
        save(path, mu=np.zeros(3), sigma=np.eye(3), num_images=9, ddof=1)
        whole = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                load_reference(path)
            except FileFormatError as error:  # anything else fails the test
                assert "\n" not in str(error)
                refused += 1
        assert refused > 50

    def test_a_header_that_asks_for_all_memory(self, tmp_path: Path) -> None:
        array = io.BytesIO()
        np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
        with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
            for name in ("mu.npy", "sigma.npy"):
                archive.writestr(name, array.getvalue())
        with pytest.raises(FileFormatError, match="cannot read reference"):
            load_reference(tmp_path / "r.npz")

    def test_another_detector_is_refused(self, detector: ClassifierDetector) -> None:
        with pytest.raises(MismatchError, match="3 features"):
            self.reference.check(detector)
        detector.name = "other"
        with pytest.raises(MismatchError, match="made with detector fashion16 but other"):
            self.reference.check(detector)


class TestCollectionOfOneMetric:
    def test_is_the_distance_of_the_first_images(self, detector: ClassifierDetector) -> None:
        real, fake = random_bytes(300), random_bytes(200) // 2
        reference = moments_of(detector(real))
        metric = MetricCollection(detector, Reference(reference.mean, reference.covariance(), 300, 1, "fashion16"), 150)
        assert metric.name == "fd150-fashion16"
        for part in fake.split(40):
            metric.update(part)
        expected = distance(moments_of(detector(fake[:150])), reference)
        assert expected > 0
        assert metric.result() == {"fd150-fashion16": pytest.approx(expected, rel=1e-5)}

    def test_the_same_images_are_at_zero(self, detector: ClassifierDetector) -> None:
        images = random_bytes(4)  # so few that N and N - 1 differ
        moments = moments_of(detector(images))
        mixed = frechet_distance(moments.mean, moments.covariance(0), moments.mean, moments.covariance(1))
        for ddof in (0, 1):
            metric = MetricCollection(detector, Reference(moments.mean, moments.covariance(ddof), 4, ddof, None), 4)
            metric.update(images)
            assert metric.result()[metric.name] < 1e-9 * mixed

    def test_too_few_images_are_an_error_not_a_value(self, detector: ClassifierDetector) -> None:
        moments = moments_of(detector(random_bytes(50)))
        metric = MetricCollection(detector, Reference(moments.mean, moments.covariance()), 100)
        metric.update(random_bytes(99))
        with pytest.raises(MismatchError, match="needs 100 images and has seen 99"):
            metric.result()

    @pytest.mark.parametrize(
        ("name", "expected"), [("fashion16", "fd10k-fashion16"), ("inception", "fid10k-inception")]
    )
    def test_fid_is_the_name_in_inception_features_alone(
        self, detector: ClassifierDetector, name: str, expected: str
    ) -> None:
        detector.name = name
        reference = Reference(torch.zeros(128, dtype=torch.float64), torch.eye(128, dtype=torch.float64))
        assert MetricCollection(detector, reference, 10_000).name == expected


def test_to_uint8_truncates_as_stylegan_does() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.0038, 0.9999, 1.0, 3.0]).reshape(1, 1, 1, -1)
    assert to_uint8(values).flatten().tolist() == [0, 0, 128, 128, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(every)), every)
