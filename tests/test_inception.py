"""Inception-v3 and its detector: golden outputs, planted bugs, weights in two kinds of file."""

import copy
import pickle
import struct
import tracemalloc
import zipfile
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
from gan_refine.metrics.torchscript import read_tensors
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
    "no maximum in the last block": ("maximum_pool", inception.average_pool),
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

    def test_scripted_module_is_read_and_never_run(self, network: InceptionV3, tmp_path: Path) -> None:
        class Holder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x)

        module = Holder().eval()
        torch.jit.script(module).save(tmp_path / "module.pt")
        found = read_tensors(tmp_path / "module.pt")
        assert set(found) == set(module.state_dict())
        assert all(torch.equal(found[name], value) for name, value in module.state_dict().items())

    def test_archive_with_the_published_names(self, weights: dict, tmp_path: Path) -> None:
        path = tmp_path / "archive.pt"
        torch.jit.script(published_archive(weights)).save(path)
        found = load_inception(path).state_dict()
        scales = {name for name in weights if name.endswith("bn.weight")}  # the graph of 2015 has none
        assert all(torch.equal(found[name], value) for name, value in weights.items() if name not in scales)
        assert all(torch.equal(found[name], torch.ones_like(found[name])) for name in scales)

    def test_archive_without_end(self, tmp_path: Path) -> None:
        # A module that holds itself, and one storage that stands for many tensors.
        loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}q\x01X\x01\x00\x00\x00aq\x02h\x00sb."
        path = tmp_path / "loop.pt"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/constants.pkl", b"")
            archive.writestr("x/data.pkl", loop)
        assert read_tensors(path) == {}
        with pytest.raises(FileFormatError, match="is no archive of Inception-v3"):
            load_inception(path)

    def test_tensors_of_one_storage_buy_no_memory(self, tmp_path: Path) -> None:
        def save(number: int) -> Path:
            module, whole = nn.Module(), torch.zeros(10_000)
            for n in range(number):
                module.register_buffer(f"part{n}", whole.view(-1))
            torch.jit.script(module).save(tmp_path / "shared.pt")
            return tmp_path / "shared.pt"

        assert len(read_tensors(save(3))) == 3
        with pytest.raises(FileFormatError, match="take more than 4 times the file"):
            read_tensors(save(10))

    @pytest.mark.parametrize("index", [1_000, 2**31])
    def test_places_to_store_cost_nothing(self, tmp_path: Path, index: int) -> None:
        # Python's own machine makes room for every place below the index: 34 GB of it for a file of 300 bytes.
        path, weight = tmp_path / "memo.pt", b"X\x01\x00\x00\x00aK\x01r" + struct.pack("<I", index)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/constants.pkl", b"")
            archive.writestr("x/data.pkl", b"\x80\x02c__torch__\nM\n)\x81}" + weight + b"sb.")
        tracemalloc.start()
        try:
            assert read_tensors(path) == {}
            assert tracemalloc.get_traced_memory()[1] < 2**20
        finally:
            tracemalloc.stop()

    def test_long_names_inside_each_other(self, tmp_path: Path) -> None:
        name = "n" * 2000
        module = nn.Module()
        module.add_module(name, nn.BatchNorm2d(1))
        torch.jit.script(module).save(tmp_path / "names.pt")
        with pytest.raises(FileFormatError, match="of no proper name"):
            read_tensors(tmp_path / "names.pt")

    def test_hostile_archive(self, tmp_path: Path) -> None:
        path, witness = tmp_path / "hostile.pt", tmp_path / "witness"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/constants.pkl", b"")
            archive.writestr("x/data.pkl", pickle.dumps(Hostile(witness)))
        with pytest.raises(FileFormatError, match="it names pathlib"):
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


def published_archive(weights: dict[str, torch.Tensor]) -> nn.Module:
    """A module with the attribute names of the published TorchScript archive, which keeps no scales."""
    root = nn.Module()
    fields = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}
    order = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
    towers = {"A": {"branch5x5": "tower", "branch3x3dbl": "tower_1"}, "B": {"branch3x3dbl": "tower"}}
    towers |= {
        "C": {"branch7x7": "tower", "branch7x7dbl": "tower_1"},
        "D": {"branch3x3": "tower", "branch7x7x3": "tower_1"},
    }
    towers["E"] = {"branch3x3": "tower", "branch3x3dbl": "tower_1"}
    for name, value in weights.items():
        if name.startswith("fc."):
            place = ["output", name[3:]]
        elif not (field := next((field for field in fields if name.endswith(field)), None)):
            continue
        elif name.startswith("Conv2d_"):
            number = order.index(name[7:13])
            place = ["layers", f"conv_{number}" if number else "conv", fields[field]]
        else:
            block, branch = name.split(".")[:2]
            number = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"].index(block[6:])
            tower = towers["AAABCCCCDEE"[number]]
            place = ["layers", f"mixed_{number}" if number else "mixed", *in_tower(branch, tower), fields[field]]
        put(root, place, value)
    return root


def in_tower(branch: str, towers: dict[str, str]) -> list[str]:
    if branch in ("branch1x1", "branch3x3"):
        return ["conv"]
    if branch == "branch_pool":
        return ["tower_2", "conv"]
    stem, _, step = branch.rpartition("_")
    if step[-1] in "ab":
        return [towers[stem], "mixed", "conv" if step[-1] == "a" else "conv_1"]
    return [towers[stem], "conv" if step == "1" else f"conv_{int(step) - 1}"]


def put(module: nn.Module, place: list[str], value: torch.Tensor) -> None:
    for name in place[:-1]:
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    module.register_buffer(place[-1], value)
