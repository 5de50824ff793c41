"""Inception-v3 and its detector: golden outputs, planted bugs, weights from files."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden_file import Golden, relative_error
from inception_weights import all_by_rule
from torch import nn
from torch.nn import functional as F

from gan_refine import assets
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import Detector, open_detector
from gan_refine.metrics import inception as inception_metric
from gan_refine.metrics.inception import InceptionDetector, InceptionOptions, load_inception, open_inception
from gan_refine.networks import inception
from gan_refine.networks.inception import DEPTHS, InceptionV3, resize_tf1

GOLDEN = Golden("inception")
SIZES = ("32x32", "64x64", "300x310")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return all_by_rule()


@pytest.fixture(scope="module")
def network(weights: dict[str, torch.Tensor]) -> InceptionV3:
    net = InceptionV3().eval().requires_grad_(False)
    net.load_state_dict(weights, strict=True)
    return net


@pytest.fixture(scope="module")
def plain_file(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "plain.pth"
    torch.save(weights, path)
    return path


def worst_error(net: InceptionV3, size: str, scale: float = 1, count: int = 1) -> float:
    """The largest relative error of any output for the first golden images of that size."""
    found = net(GOLDEN[f"in/images_{size}"][:count].float() * scale)
    outputs = {str(depth): features for depth, features in found.features.items()}
    outputs |= {"logits_unbiased": found.logits_unbiased, "logits": found.logits_unbiased + net.fc.bias}
    return max(relative_error(value, GOLDEN[f"out/{name}_{size}"][:count]) for name, value in outputs.items())


@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_the_published_ones(network: InceptionV3, size: str) -> None:
    assert worst_error(network, size, count=2) < 1e-5


def half_pixel(images: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(images, [size, size], mode="bilinear", align_corners=False)


def counting_pads(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1)


PLANTED = {
    "resize by half pixels": ("resize_tf1", half_pixel),
    "resize smoothed": ("resize_tf1", lambda x, size: F.interpolate(x, [size, size], mode="bilinear", antialias=True)),
    "pool counts padding": ("average_pool", counting_pads),
    "no maximum in the last block": ("max_pool", inception.average_pool),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(network: InceptionV3, monkeypatch: pytest.MonkeyPatch, bug: str) -> None:
    monkeypatch.setattr(inception, *PLANTED[bug])
    assert worst_error(network, "64x64") > 1e-3


def test_range_of_zero_to_one_is_caught(network: InceptionV3) -> None:
    assert worst_error(network, "64x64", scale=1 / 255) > 1e-2


def test_tf32_is_caught(network: InceptionV3, weights: dict) -> None:
    def rounded(x: torch.Tensor) -> torch.Tensor:  # 10 bits of mantissa, as the tensor cores see it
        return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    net = copy.deepcopy(network)
    net.load_state_dict({name: rounded(w) if "conv.weight" in name else w for name, w in weights.items()})
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda module, args: (rounded(args[0]),))
    assert worst_error(net, "64x64") > 1e-4


def test_tf32_and_autocast_are_off_while_a_detector_looks(network: InceptionV3) -> None:
    seen: list[tuple[list[str], bool]] = []
    handle = network.Conv2d_1a_3x3.register_forward_pre_hook(
        lambda *_: seen.append((precisions(), torch.is_autocast_enabled("cpu")))
    )
    try:
        torch.set_float32_matmul_precision("medium")
        asked_for = precisions()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = InceptionDetector("inception", network).outputs(GOLDEN["in/images_32x32"])
            assert torch.is_autocast_enabled("cpu")
        assert seen == [(["ieee"] * len(asked_for), False)]
        assert precisions() == asked_for != seen[0][0], "restored"
        assert torch.get_float32_matmul_precision() != "highest", "restored"
        assert relative_error(outputs.features, GOLDEN["out/2048_32x32"]) < 1e-5
        assert relative_error(outputs.logits, GOLDEN["out/logits_unbiased_32x32"]) < 1e-5
    finally:
        handle.remove()
        torch.set_float32_matmul_precision("highest")


def precisions() -> list[str]:
    """Of float32 products on GPUs and CPUs, by whichever interface this torch has."""
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):
        owners = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        return [owner.fp32_precision for owner in owners]
    return ["tf32" if owner.allow_tf32 else "ieee" for owner in (backends.cuda.matmul, backends.cudnn)]


class TestResize:
    def test_every_pixel_by_hand(self) -> None:
        image = torch.rand(1, 1, 5, 7)
        got = resize_tf1(image, 9)
        for i in range(9):
            for j in range(9):
                y, x = i * 5 / 9, j * 7 / 9
                y0, x0 = int(y), int(x)
                y1, x1 = min(y0 + 1, 4), min(x0 + 1, 6)
                top = image[0, 0, y0, x0] * (1 - (x - x0)) + image[0, 0, y0, x1] * (x - x0)
                bottom = image[0, 0, y1, x0] * (1 - (x - x0)) + image[0, 0, y1, x1] * (x - x0)
                assert float(got[0, 0, i, j]) == pytest.approx(
                    float(top * (1 - (y - y0)) + bottom * (y - y0)), abs=1e-6
                )

    def test_the_same_size_is_the_same_image(self) -> None:
        image = torch.rand(2, 3, 6, 6)
        assert torch.equal(resize_tf1(image, 6), image)


class TestDetector:
    def test_batches_do_not_matter(self, network: InceptionV3) -> None:
        detector = InceptionDetector("inception", network)
        assert isinstance(detector, Detector)
        images = torch.randint(0, 256, [3, 3, 20, 20], dtype=torch.uint8)
        whole = detector(images)
        detector.batch = 2
        torch.testing.assert_close(detector(images), whole, rtol=1e-4, atol=1e-5)

    def test_grey_images_are_three_equal_channels(self, network: InceptionV3) -> None:
        detector = InceptionDetector("inception", network, depth=192)
        grey = torch.randint(0, 256, [2, 1, 20, 20], dtype=torch.uint8)
        assert torch.equal(detector(grey), detector(grey.repeat(1, 3, 1, 1)))
        assert detector.accepts(ImageSpec(1, 16)) and not detector.accepts(ImageSpec(4, 16))
        with pytest.raises(MismatchError, match="1 or 3 channels"):
            detector(grey.repeat(1, 2, 1, 1))

    def test_depth(self, network: InceptionV3, depth: int = DEPTHS[2]) -> None:
        detector = InceptionDetector("inception", network, depth)
        outputs = detector.outputs(GOLDEN["in/images_32x32"])
        assert relative_error(outputs.features, GOLDEN[f"out/{depth}_32x32"]) < 1e-5
        assert relative_error(outputs.logits, GOLDEN["out/logits_unbiased_32x32"]) < 1e-5


class TestFiles:
    def test_plain_weights(self, plain_file: Path, network: InceptionV3) -> None:
        found = load_inception(plain_file).state_dict()
        assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())

    def test_only_the_published_weights_are_called_inception(
        self, plain_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = open_detector(f"inception,path={plain_file}").name
        assert name.startswith("inception-") and len(name) == len("inception-") + 8
        assert open_inception(InceptionOptions(str(plain_file), trust=True), "cpu").name == "inception"
        assert open_inception(InceptionOptions(str(plain_file), "768", trust=True), "cpu").name == "inception-768"
        monkeypatch.setattr(inception_metric, "PUBLISHED", name.removeprefix("inception-"))
        assert open_inception(InceptionOptions(str(plain_file)), "cpu").name == "inception"

    def test_a_torchscript_archive_is_refused_and_not_run(self, tmp_path: Path) -> None:
        path = tmp_path / "inception.pt"
        torch.jit.script(nn.Conv2d(3, 3, 1)).save(path)
        with pytest.raises(FileFormatError) as caught:
            open_detector(f"inception,path={path}")
        assert str(caught.value) == f"{path} is a TorchScript archive; give a file of plain weights, or leave path out"

    def test_a_hostile_file_is_refused_and_not_run(self, tmp_path: Path) -> None:
        path, witness = tmp_path / "hostile.pt", tmp_path / "witness"
        torch.save(Hostile(witness), path)
        with pytest.raises(FileFormatError, match=r"hostile\.pt is .*pt_inception-2015-12-05-6726825d\.pth"):
            load_inception(path)
        assert not witness.exists()

    @pytest.mark.parametrize("make", ["text", "other", "list"])
    def test_damaged_files_are_one_line_errors(self, tmp_path: Path, make: str) -> None:
        path = tmp_path / "file.pth"
        if make == "text":
            path.write_text("no weights")
        else:
            torch.save({"fc.weight": torch.zeros(3)} if make == "other" else [1, 2], path)
        with pytest.raises(FileFormatError) as caught:
            open_detector(f"inception,path={path}")
        assert "\n" not in str(caught.value)

    def test_the_catalog_knows_the_weights(self) -> None:
        found = assets.public_files()[inception_metric.IN_CATALOG]
        assert found.kind == "detector" and found.sha256_prefix == inception_metric.PUBLISHED

    def test_missing_file_and_unknown_option(self) -> None:
        with pytest.raises(FileFormatError, match="is not a file"):
            open_detector("inception,path=nowhere.pth")
        with pytest.raises(OptionError, match="its options are: depth, path, trust"):
            open_detector("inception,file=x")


class Hostile:
    """Pickles into a call that would write `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[Path, str]]:
        return Path.write_text, (self.path, "run")
