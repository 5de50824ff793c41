"""Further detectors: EfficientNet-Lite0 from pip packages, and any TorchScript file."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from gan_refine import assets
from gan_refine.config import Range, require, require_ranges
from gan_refine.efficientnet import WIDTH, efficientnet_features, open_efficientnet
from gan_refine.errors import FileFormatError, MismatchError, OptionError, first_line
from gan_refine.features import projection
from gan_refine.interfaces import ImageSpec, PixelBytes
from gan_refine.metrics.detectors import LARGEST_WIDTH, Device, Features32, NetworkDetector, Outputs, rgb

EFFICIENTNET = "efficientnet-lite0"
PROJECTED = 256  # random directions: fewer images suffice for a full-rank covariance, and no rare channel dominates the distance


@dataclass(frozen=True)
class EfficientNetOptions:
    """`efficientnet-lite0,size=64,directions=fashion16`: the width to which images are resized, and the data set whose principal
    directions in these features (embedded for some sizes) replace the random ones.
    """

    size: int = 224
    directions: str = ""

    def __post_init__(self) -> None:
        require("size", self.size, 32 <= self.size <= 1024, "a width in pixels, 32 to 1024")

    @property
    def name(self) -> str:
        """The detector's: figures of different options never have the same one."""
        size = "" if self.size == EfficientNetOptions.size else f"-{self.size}"
        return EFFICIENTNET + size + (f"-{self.directions}" if self.directions else "")


class EfficientNetDetector(NetworkDetector):
    """Features [N, d] of EfficientNet-Lite0, projected to d directions, for RGB images of any size; grey ones become three equal
    channels.
    """

    batch = 50
    takes = "uint8 images of 1 or 3 channels [N, C, H, W]"

    def __init__(
        self, network: nn.Module, options: EfficientNetOptions, directions: Tensor, device: Device = "cpu"
    ) -> None:
        super().__init__(options.name, ImageSpec(3, options.size), directions.shape[1], network, device)
        self.directions = directions.to(self.device)

    def accepts(self, spec: ImageSpec) -> bool:
        return spec.channels in (1, 3)

    def pooled(self, images_uint8: PixelBytes) -> Features32:
        """The network's last activations, averaged over the image [N, 1280]: what `directions` are directions of."""
        return efficientnet_features(self.network, images_uint8.to(torch.float32), self.spec.resolution)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        features = self.pooled(images_uint8)
        return Outputs(features @ self.directions, self.network._fc(features))  # type: ignore[operator]


def open_efficientnet_detector(options: EfficientNetOptions, device: Device) -> EfficientNetDetector:
    """The detector with the weights of its pip package; nothing is downloaded. Raises OptionError if it is not installed."""
    directions = _principal_directions(options) if options.directions else projection(WIDTH, PROJECTED)
    network = open_efficientnet(0, f"detector {EFFICIENTNET}")
    return EfficientNetDetector(network, options, directions, device)


def _principal_directions(options: EfficientNetOptions) -> Float32[Tensor, "i o"]:
    """Those in the embedded reference of this name. Raises OptionError if there is none."""
    known = [name for name, entry in assets.catalog().items() if name.startswith(EFFICIENTNET)]
    if options.name not in known:
        raise OptionError(
            f"there are no principal directions for {options.name}, only for: {', '.join(known)}; leave directions out"
        )
    with np.load(assets.resolve("reference", options.name), allow_pickle=False) as file:
        return torch.from_numpy(file["directions"].astype(np.float32))


@dataclass(frozen=True)
class ModuleOptions:
    """`torchscript,path=FILE,channels=1,resolution=32`: the file and the images that it takes. Resolution 0 means any."""

    path: str = ""
    channels: int = 3
    resolution: int = 0

    def __post_init__(self) -> None:
        require("path", self.path, bool(self.path), "the TorchScript file: torchscript,path=FILE")
        require_ranges(self, {"channels": Range(1, 64), "resolution": Range(0, 4096)})


class ModuleDetector(NetworkDetector):
    """Any module that maps uint8 images [N, C, H, W] in 0..255 to features [N, d]; resizing and scaling are its own.

    Raises MismatchError if its output is of another shape.
    """

    batch = 50

    def __init__(self, name: str, network: nn.Module, spec: ImageSpec, device: Device = "cpu") -> None:
        self.takes = f"uint8 images of {spec.channels} channels, {spec.resolution or 'any'} pixels wide"
        super().__init__(name, spec, 0, network, device)
        side = spec.resolution or 64
        probe = torch.zeros([2, spec.channels, side, side], dtype=torch.uint8)
        self.num_features = self.outputs(probe).features.shape[1]

    def accepts(self, spec: ImageSpec) -> bool:
        grey_as_rgb = self.spec.channels == 3 and spec.channels == 1
        return (grey_as_rgb or spec.channels == self.spec.channels) and self.spec.resolution in (0, spec.resolution)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        found = self.network(rgb(images_uint8) if self.spec.channels == 3 else images_uint8)
        if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] > LARGEST_WIDTH:
            got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise MismatchError(f"detector {self.name} gives {got}, not features [N, d] with d <= {LARGEST_WIDTH}")
        return Outputs(found.to(torch.float32), None)


def open_torchscript(options: ModuleOptions, device: Device) -> ModuleDetector:
    """The detector of a TorchScript file; its results are named after the file and its digest. This runs the file's program.

    Raises FileFormatError if the file cannot be read, and MismatchError if it does not map images to features.
    """
    path = Path(options.path)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        network = torch.jit.load(path, map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise FileFormatError(f"{path} is not a readable TorchScript file ({first_line(error)})") from error
    name = f"ts-{re.sub(r'[^A-Za-z0-9.]+', '-', path.stem)}-{digest[:8]}"
    try:
        return ModuleDetector(name, network, ImageSpec(options.channels, options.resolution), device)
    except RuntimeError as error:
        raise MismatchError(f"{path} cannot process uint8 images ({str(error).splitlines()[-1]})") from error
