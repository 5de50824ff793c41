"""Images of a folder or a zip as a stream of bytes, and the reference that they make."""

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
from gan_refine.metrics.statistics import Needs, Statistics

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "F"}  # Pillow's conversion of these to bytes clips instead of scaling
BATCH = 250
LARGEST_IMAGE = 256 * 2**20  # bytes of one file
# What Pillow and zipfile raise for damaged, encrypted and oddly compressed files.
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


def read_images(path: Path) -> tuple[int, Iterator[PixelBytes]]:
    """The number of images in a folder (with those inside) or a zip, in order of name, and an iterator over batches.

    Raises FileFormatError for a file that cannot be read and MismatchError for one of another size or colour.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        names, read = [str(file) for file in files], lambda name: Path(name).read_bytes()
    else:
        names, read = _open_zip(path)
    if not names:
        raise FileFormatError(f"{path} holds no images; known are {', '.join(sorted(SUFFIXES))}")
    return len(names), _batches(names, read)


def reference_of_images(path: Path, detector: Detector, tick: Callable[[int], object] = lambda n: None) -> Reference:
    """Moments (over N - 1) and a sample of the features of the images at `path`; `tick` hears of each batch's size."""
    count, batches = read_images(path)
    if count < 2:
        raise MismatchError(f"{path} holds {count} image; a reference needs at least 2")
    kept = Statistics(detector, count, Needs(sample=True))
    first = 0
    for images in batches:
        kept.update(detector.outputs(images), first)
        first += len(images)
        tick(len(images))
    return reference_of(kept)


def _open_zip(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise FileFormatError(f"cannot read {path} as a folder or zip of images ({first_line(error)})") from error
    entries = [entry for entry in archive.infolist() if Path(entry.filename).suffix.lower() in SUFFIXES]
    for entry in entries:
        if entry.file_size > LARGEST_IMAGE:
            raise FileFormatError(
                f"{entry.filename} in {path} unpacks to {entry.file_size} bytes; that is no image to measure"
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
                    f"{name} is {list(image.shape)} but the first image is {list(shape)}; make them equal"
                )
        yield torch.stack(images)


def _decode(name: str, read: Callable[[str], bytes]) -> torch.Tensor:
    try:
        with Image.open(io.BytesIO(read(name))) as opened:
            if opened.mode in DEEP_MODES:
                raise FileFormatError(f"{name} has more than 8 bits a channel ({opened.mode}); make them 8-bit images")
            image = opened if opened.mode in ("L", "RGB") else opened.convert("RGB")
            pixels = np.array(image)
    except UNREADABLE as error:
        raise FileFormatError(f"{name} is not a readable image ({first_line(error)})") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
