"""Images in a folder or a zip file as a stream of uint8 batches, and the reference made of them."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gan_refine.errors import FileFormatError, MismatchError, first_line
from gan_refine.interfaces import PixelBytes
from gan_refine.metrics.detectors import Detector
from gan_refine.metrics.references import Reference, reference_of
from gan_refine.metrics.statistics import FeatureStatistics, Requirements

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "F"}  # Pillow clips these to bytes instead of scaling them
BATCH = 250
LARGEST_IMAGE = 256 * 2**20  # bytes of one file
OnProgress = Callable[[int], object]  # is called with the number of images after each batch
# What Pillow and zipfile raise for damaged or encrypted files and unknown compression.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


def ignore_progress(num_images: int) -> None:
    """The OnProgress of a caller that shows no progress."""


def read_images(path: Path) -> tuple[int, Iterator[PixelBytes]]:
    """The number of images below a folder or in a zip file, and an iterator over uint8 batches [N, C, H, W] in order of name.

    Grey images have one channel, all others are converted to RGB. Raises FileFormatError if an image cannot be read or
    has more than 8 bits a channel, and MismatchError if one differs from the first in size or number of channels.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        names, read = [str(file) for file in files], lambda name: Path(name).read_bytes()
    else:
        names, read = _open_zip(path)
    if not names:
        raise FileFormatError(f"{path} holds no images; known formats are {', '.join(sorted(SUFFIXES))}")
    return len(names), _batches(names, read)


def reference_of_images(path: Path, detector: Detector, progress: OnProgress = ignore_progress) -> Reference:
    """Moments (covariance over N - 1) and a feature sample of the images in a folder or zip file. Raises as `read_images`."""
    count, batches = read_images(path)
    if count < 2:
        raise MismatchError(f"{path} holds {count} image, and a reference needs at least 2")
    statistics = FeatureStatistics(detector, count, Requirements(sample=True))
    first = 0
    for images in batches:
        statistics.update(detector.outputs(images), first)
        first += len(images)
        progress(len(images))
    return reference_of(statistics)


def _open_zip(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise FileFormatError(f"cannot read {path} as a folder or zip of images ({first_line(error)})") from error
    entries = [entry for entry in archive.infolist() if Path(entry.filename).suffix.lower() in SUFFIXES]
    for entry in entries:
        if entry.file_size > LARGEST_IMAGE:
            raise FileFormatError(
                f"{entry.filename} in {path} unpacks to {entry.file_size} bytes; the limit for an image is {LARGEST_IMAGE}"
            )
    return sorted(entry.filename for entry in entries), archive.read


def _batches(names: list[str], read: Callable[[str], bytes]) -> Iterator[PixelBytes]:
    shape: torch.Size | None = None
    for start in range(0, len(names), BATCH):
        images = [_decode(name, read) for name in names[start : start + BATCH]]
        for name, image in zip(names[start:], images, strict=False):
            shape = shape or image.shape
            if image.shape != shape:
                raise MismatchError(
                    f"{name} is {list(image.shape)} but the first image is {list(shape)}; all images must have one shape"
                )
        yield torch.stack(images)


def _decode(name: str, read: Callable[[str], bytes]) -> torch.Tensor:
    try:
        with Image.open(io.BytesIO(read(name))) as opened:
            if opened.mode in DEEP_MODES:
                raise FileFormatError(f"{name} has more than 8 bits a channel ({opened.mode}); convert it to 8 bits")
            image = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
            pixels = np.array(image)
    except UNREADABLE as error:
        raise FileFormatError(f"{name} is not a readable image ({first_line(error)})") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
