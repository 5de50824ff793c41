"""The Inception detector of FID, KID and the inception score, from a state dict."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gan_refine import assets
from gan_refine.errors import FileFormatError, UserError, first_line
from gan_refine.interfaces import ImageSpec, PixelBytes
from gan_refine.metrics.detectors import Device, NetworkDetector, Outputs, rgb
from gan_refine.networks.inception import INPUT_SIZE, InceptionV3

PUBLISHED = "6726825d"  # how the SHA-256 of pt_inception-2015-12-05-6726825d.pth starts
NAME = "inception"
IN_CATALOG = "inception-2015-12-05"
COUNTER = "num_batches_tracked"  # of batch normalization, unused in evaluation mode


@dataclass(frozen=True)
class InceptionOptions:
    """`inception,path=FILE,depth=768`. `trust` states that FILE has the published weights although its digest differs."""

    path: str | None = None
    depth: Literal["64", "192", "768", "2048"] = "2048"
    trust: bool = False


class InceptionDetector(NetworkDetector):
    """Features of RGB images of any size; grey ones become three equal channels. `depth` is the number of features."""

    batch = 50
    takes = "uint8 images of 1 or 3 channels [N, C, H, W]"

    def __init__(self, name: str, network: InceptionV3, depth: int = 2048, device: Device = "cpu") -> None:
        super().__init__(name, ImageSpec(3, INPUT_SIZE), depth, network, device)
        if self.device.type == "cpu":  # 11.5 instead of 7.0 images a second of one thread
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def accepts(self, spec: ImageSpec) -> bool:
        return spec.channels in (1, 3)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        activations = self.network(rgb(images_uint8).to(torch.float32))
        return Outputs(activations.features[self.num_features], activations.logits_unbiased)


def open_inception(options: InceptionOptions, device: Device) -> InceptionDetector:
    """The detector with the weights of `options.path`, by default those of the catalog, which are downloaded once.

    Its name is `inception`, so that its Frechet distance is called FID, only with the published weights and the last
    features; otherwise digest or depth are added. Raises FileFormatError if the file is missing or not such weights.
    """
    path = _file(options.path)
    digest = assets.sha256(path)
    published = options.trust or digest.startswith(PUBLISHED)
    name = NAME if published else f"{NAME}-{digest[:8]}"
    if options.depth != "2048":
        name += f"-{options.depth}"
    return InceptionDetector(name, load_inception(path), int(options.depth), device)


def load_inception(path: Path) -> InceptionV3:
    """The network with the weights of a state dict, opened with weights_only. Raises FileFormatError for any other file."""
    with torch.device("meta"):  # saves the initialization of weights that are replaced at once
        network = InceptionV3()
    wanted = network.state_dict()
    found = _read_plain(path)
    counters = {key: torch.tensor(0) for key in wanted if key.endswith(COUNTER)}
    try:
        weights = {key: value.to(wanted[key].dtype) for key, value in found.items() if key in wanted}
        unknown = sorted(set(found) - set(wanted))
        if unknown:
            raise RuntimeError(f"it holds {unknown[0]}, which the network does not have")
        network.load_state_dict(counters | weights, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{path}: weights do not fit Inception-v3 ({reason})") from error
    return network


def _read_plain(path: Path) -> Mapping[str, Tensor]:
    if _is_torchscript(path):
        raise FileFormatError(f"{path} is a TorchScript archive; give a file of plain weights, or leave path out")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{path} is not a state dict such as pt_inception-2015-12-05-6726825d.pth ({first_line(error)})"
        ) from error
    if not isinstance(weights, Mapping):
        raise FileFormatError(f"{path} does not hold weights by name")
    return weights


def _is_torchscript(path: Path) -> bool:
    """Whether the file is an archive with the table of constants that only TorchScript writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _file(path: str | None) -> Path:
    """The weights file: `path`, or the one of the catalog."""
    if path is None:
        try:
            return assets.resolve("detector", IN_CATALOG)
        except UserError as error:
            raise FileFormatError(f"{error}; or name the weights file: inception,path=FILE") from error
    if not Path(path).is_file():
        raise FileFormatError(f"path={path} of detector inception is not a file")
    return Path(path)
