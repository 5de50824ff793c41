"""Detectors: networks in whose features the metrics are computed, read from files that cannot run code."""

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gan_refine.errors import FileFormatError, MismatchError, UserError, first_line
from gan_refine.files import atomic_file
from gan_refine.finite import require_finite_module
from gan_refine.interfaces import ImageSpec, PixelBytes
from gan_refine.metrics.classifiers import ARCHITECTURES, Classifier, Logits
from gan_refine.pixels import from_uint8
from gan_refine.precision import float32_products

Features32 = Float32[Tensor, "n d"]
Device = torch.device | str

SUFFIX = "-detector.safetensors"
LARGEST_WIDTH = 4096  # of features, so that a hostile file cannot make us allocate all memory


@dataclass(frozen=True)
class Outputs:
    """Features [N, num_features] in float32, and logits [N, classes], None if the detector has no classifier."""

    features: Features32
    logits: Logits | None


@runtime_checkable
class Detector(Protocol):
    """Maps uint8 images [N, C, H, W] in 0..255 to float32 features [N, num_features], each image independently of the others."""

    name: str
    spec: ImageSpec
    num_features: int
    device: torch.device  # of the features; images may be on another

    def __call__(self, images_uint8: PixelBytes) -> Features32: ...

    def outputs(self, images_uint8: PixelBytes) -> Outputs: ...

    def accepts(self, spec: ImageSpec) -> bool: ...


class NetworkDetector(ABC):
    """A frozen network as a Detector, in evaluation mode, in full float32 precision and in batches of bounded memory.

    Subclasses implement `accepts`, `_outputs` for one batch on the detector's device, and `takes`, the accepted images in words.
    """

    batch = 500  # images per forward pass; the activations of 10,000 images would take gigabytes
    takes = "uint8 images [N, C, H, W]"

    def __init__(self, name: str, spec: ImageSpec, num_features: int, network: nn.Module, device: Device) -> None:
        self.name = name
        self.spec = spec
        self.num_features = num_features
        self.device = torch.device(device)
        self.network = network.eval().to(self.device)
        require_finite_module(network, f"detector {name}")
        for parameter in self.network.parameters():  # TorchScript modules do not have requires_grad_
            parameter.requires_grad_(False)

    @abstractmethod
    def _outputs(self, images_uint8: PixelBytes) -> Outputs: ...

    @abstractmethod
    def accepts(self, spec: ImageSpec) -> bool:
        """Whether this detector takes such images; `spec.num_classes` does not matter."""

    def __call__(self, images_uint8: PixelBytes) -> Features32:
        """Features [N, num_features] on the detector's device. Raises MismatchError for images that it does not take."""
        return self.outputs(images_uint8).features

    @torch.no_grad()
    def outputs(self, images_uint8: PixelBytes) -> Outputs:
        """Features and logits from one pass. Raises MismatchError for images that the detector does not take."""
        height, width = images_uint8.shape[2:]
        square = self.spec.resolution if height != width else height  # detectors of any size take rectangles too
        if images_uint8.dtype != torch.uint8 or not self.accepts(ImageSpec(images_uint8.shape[1], square)):
            got = f"{images_uint8.dtype} {list(images_uint8.shape)}"
            raise MismatchError(f"detector {self.name} takes {self.takes}, got {got}")
        with float32_products(tf32=False), torch.autocast(self.device.type, enabled=False):
            parts = [self._outputs(part.to(self.device)) for part in images_uint8.split(self.batch)]
        logits = [part.logits for part in parts if part.logits is not None]
        return Outputs(torch.cat([part.features for part in parts]), torch.cat(logits) if logits else None)


def rgb(images_uint8: PixelBytes) -> UInt8[Tensor, "n channels h w"]:
    """Grey images as three equal channels, as in StyleGAN's metrics; other images unchanged."""
    return images_uint8.expand(-1, 3, -1, -1) if images_uint8.shape[1] == 1 else images_uint8


@dataclass(frozen=True)
class Description:
    """The metadata of a detector's file, stored as JSON with the weights."""

    architecture: str
    name: str
    resolution: int
    num_features: int


class ClassifierDetector(NetworkDetector):
    """The penultimate features and the logits of a classifier for one image size, as a Detector."""

    network: Classifier

    def __init__(self, name: str, network: Classifier, device: Device = "cpu") -> None:
        super().__init__(name, network.spec, network.num_features, network, device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        size = network.spec.resolution
        self.takes = f"uint8 images [N, {network.spec.channels}, {size}, {size}]"

    def accepts(self, spec: ImageSpec) -> bool:
        return (spec.channels, spec.resolution) == (self.spec.channels, self.spec.resolution)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        images = from_uint8(images_uint8)
        features = self.network.features(images.contiguous(memory_format=torch.channels_last))
        return Outputs(features, self.network.head(features))


def load_detector(path: Path | str, name: str | None = None, device: Device = "cpu") -> ClassifierDetector:
    """The detector in a .safetensors or weights-only .pt file; in a folder, NAME-detector.safetensors.

    Raises FileFormatError if the file is missing or damaged, or is not a detector. No code in the file is run.
    """
    file = _find(Path(path), name)
    description, weights = _read_safetensors(file) if file.suffix.lower() == ".safetensors" else _read_torch(file)
    try:
        network = ARCHITECTURES[description.architecture](description.resolution, description.num_features)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError, UserError) as error:
        raise FileFormatError(f"{file}: weights do not fit {description.architecture} ({first_line(error)})") from error
    return ClassifierDetector(description.name, network, device)


def save_detector(path: Path, name: str, network: Classifier) -> None:
    """Writes a .safetensors file that `load_detector` reads, atomically. Raises OSError."""
    description = Description(type(network).__name__, name, network.spec.resolution, network.num_features)
    weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    metadata = {"detector": json.dumps(asdict(description), sort_keys=True)}
    with atomic_file(path) as stream:
        stream.write(save(weights, metadata))


def _find(path: Path, name: str | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileFormatError(f"no detector at {path}: there is no such file or folder")
    known = sorted(file.name.removesuffix(SUFFIX) for file in path.glob(f"*{SUFFIX}"))
    chosen = known[0] if name is None and len(known) == 1 else name
    if chosen not in known:
        raise FileFormatError(f"no detector {name or 'name given'} in {path}; it holds: {', '.join(known) or 'none'}")
    return path / f"{chosen}{SUFFIX}"


def _read_safetensors(file: Path) -> tuple[Description, Mapping[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{file} is not a readable safetensors file ({error})") from error
    return _parse(file, metadata.get("detector", "")), weights


def _read_torch(file: Path) -> tuple[Description, Mapping[str, Tensor]]:
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        return _parse(file, saved["detector"]), saved["weights"]
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{file} is not a detector that opens with weights_only ({first_line(error)})") from error


def _parse(file: Path, text: object) -> Description:
    try:
        description = Description(**json.loads(str(text)))
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{file} is not a detector; make one with recipes/train_detector.py") from error
    kinds = {key: type(value).__name__ for key, value in asdict(description).items()}
    if kinds != {"architecture": "str", "name": "str", "resolution": "int", "num_features": "int"}:
        raise FileFormatError(f"{file} describes a detector with fields of wrong types: {kinds}")
    if description.architecture not in ARCHITECTURES:
        raise FileFormatError(f"{file} is for {description.architecture}; known detectors: {', '.join(ARCHITECTURES)}")
    if not 1 <= description.num_features <= LARGEST_WIDTH:
        raise FileFormatError(
            f"{file} asks for {description.num_features} features; at most {LARGEST_WIDTH} are allowed"
        )
    return description
