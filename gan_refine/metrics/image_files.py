"""Images in a folder or a zip file as a stream of uint8 batches, and the reference made of them."""

import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

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
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels
GREY_MODES = ("1", "L", "LA", "La")
BATCH = 250
LARGEST_IMAGE = 256 * 2**20  # bytes of one file
APPLE, HIDDEN, ODD = "AppleDouble", "hidden", "no regular file"
BROKEN, AGAIN = "broken link", "link to what is read under another name"
FRAMES, TRANSPARENT = "with further frames, of which the first is read", "transparent, read without their alpha channel"
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


@dataclass(frozen=True)
class Decoded:
    """An image in the mode L if it is grey in its storage, else RGB, and its alpha channel, None if it is opaque."""

    colour: Image.Image
    alpha: Image.Image | None = None


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder or zip in order of name. `skipped` counts what is not read, `partly` what is read in part."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]
    skipped: Counter[str] = field(default_factory=Counter)
    partly: Counter[str] = field(default_factory=Counter)  # grows as images are decoded

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        """`40 images; skipped: 20 .tif, 1 AppleDouble`."""
        parts = [f"{len(self)} image{'s' if len(self) != 1 else ''}"]
        if self.skipped:
            parts.append(f"skipped: {_counts(self.skipped)}")
        return "; ".join([*parts, *([_counts(self.partly)] if self.partly else [])])

    def batches(self, channels: int | None = None) -> Iterator[PixelBytes]:
        """uint8 [N, C, H, W] with so many channels: 1, 3 or 4; by default 1 or 3 as the first image has.

        Grey is grey however it is stored, and becomes three equal channels where 3 are wanted. Raises FileFormatError if an image
        cannot be read or has more than 8 bits a channel, and MismatchError for colours where 1 channel is wanted, and for
        images of several sizes.
        """
        shape: torch.Size | None = None
        for start in range(0, len(self), BATCH):
            images = []
            for name in self.names[start : start + BATCH]:
                decoded = self._decode(name)
                channels = channels or (1 if decoded.colour.mode == "L" else 3)
                images.append(_pixels(name, decoded, channels))
                self.partly.update([TRANSPARENT] if decoded.alpha is not None and channels != 4 else [])
                shape = shape or images[0].shape
                if images[-1].shape != shape:
                    raise MismatchError(
                        f"{name} is {list(images[-1].shape)} but the first image is {list(shape)}; all must have one size"
                    )
            yield torch.stack(images)

    def _decode(self, name: str) -> "Decoded":
        try:
            with Image.open(io.BytesIO(self.read(name))) as opened:
                tiles = getattr(opened, "tile", [])
                if opened.mode in DEEP_MODES or any(str(tile[3]).endswith((";16B", ";16L", ";16N")) for tile in tiles):
                    raise FileFormatError(
                        f"{name} has more than 8 bits a channel ({opened.mode}); convert it to 8 bits"
                    )
                if getattr(opened, "n_frames", 1) > 1:
                    self.partly[FRAMES] += 1
                return _plain(opened)
        except UNREADABLE as error:
            reason = first_line(error).partition("<_io")[0]
            where = "" if Path(name).is_relative_to(self.path) else f" in {self.path}"
            raise FileFormatError(f"{name}{where} is not a readable image ({reason.strip()})") from error


def find_images(path: Path) -> ImageFiles:
    """The images below a folder, through its links, or in a zip file. Raises FileFormatError if there are none."""
    found = _in_folder(path) if path.is_dir() else _in_zip(path)
    if not found.names:
        held = f"holds no images but {_counts(found.skipped)}" if found.skipped else "is empty"
        raise FileFormatError(
            f"{path} {held}; give a folder or zip of images; known formats are {', '.join(sorted(SUFFIXES))}"
        )
    return found


def read_images(path: Path, channels: int | None = None) -> tuple[ImageFiles, Iterator[PixelBytes]]:
    """The images below a folder or in a zip file, and an iterator over their batches. Raises as `find_images` and `batches`."""
    found = find_images(path)
    return found, found.batches(channels)


def count_images(path: Path) -> int:
    """How many images a reference of this folder or zip file will have. Raises FileFormatError, and MismatchError below 2."""
    return len(_enough(find_images(path)))


def _enough(files: ImageFiles) -> ImageFiles:
    if len(files) < 2:
        raise MismatchError(f"{files.path} holds {files}, and a reference needs at least 2")
    return files


def reference_of_images(path: Path, detector: Detector, progress: OnProgress = ignore_progress) -> Reference:
    """Moments (covariance over N - 1) and a feature sample of the images in a folder or zip file. Raises as `read_images`."""
    files, batches = read_images(path, detector.spec.channels)
    statistics = FeatureStatistics(detector, len(_enough(files)), Requirements(sample=True))
    first = 0
    for images in batches:
        statistics.update(detector.outputs(images), first)
        first += len(images)
        progress(len(images))
    return replace(reference_of(statistics), images_read=str(files))


def _in_folder(folder: Path) -> ImageFiles:
    names: list[str] = []
    skipped: Counter[str] = Counter()
    folders, files = {os.path.realpath(folder)}, set()
    for holder, inner, held in os.walk(folder, followlinks=True):
        for name in list(inner):
            target = os.path.realpath(os.path.join(holder, name))
            if name.startswith("."):
                skipped[f"{HIDDEN} folder"] += 1
                inner.remove(name)
            elif target in folders:  # a link into itself would never end
                skipped[AGAIN] += 1
                inner.remove(name)
            folders.add(target)
        # Files before links to them, so that a file and a link to it count as the file.
        for name in sorted(held, key=lambda name: (os.path.islink(os.path.join(holder, name)), name)):
            path = os.path.join(holder, name)
            target = os.path.realpath(path)
            reason = _reason(name) or _odd(path) or (AGAIN if target in files else None)
            files.add(target)
            if reason is None:
                names.append(path)
            else:
                skipped[reason] += 1
    return ImageFiles(folder, sorted(names), lambda name: Path(name).read_bytes(), skipped)


def _in_zip(path: Path) -> ImageFiles:
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        raise FileFormatError(f"cannot read {path} as a folder or zip of images ({first_line(error)})") from error
    names: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        inner = PurePosixPath(entry.filename)
        hidden = any(part.startswith(".") for part in inner.parts[:-1])
        mac = APPLE if "__MACOSX" in inner.parts else None
        reason = (
            mac or (HIDDEN if hidden else None) or _reason(inner.name) or (AGAIN if entry.filename in names else None)
        )
        if reason is not None:
            skipped[reason] += 1
        elif entry.file_size > LARGEST_IMAGE:
            raise FileFormatError(
                f"{entry.filename} in {path} unpacks to {entry.file_size} bytes; the limit for an image is {LARGEST_IMAGE}"
            )
        else:
            names[entry.filename] = None
    return ImageFiles(path, sorted(names), archive.read, skipped)


def _reason(name: str) -> str | None:
    """Why a file of this name is no image to read; None for one that is."""
    if name.startswith("._"):
        return APPLE
    if name.startswith("."):
        return HIDDEN
    suffix = PurePosixPath(name).suffix.lower()
    return None if suffix in SUFFIXES else suffix or "without suffix"


def _odd(path: str) -> str | None:
    if not os.path.exists(path):
        return BROKEN
    return None if os.path.isfile(path) else ODD


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items()))


def _plain(image: Image.Image) -> Decoded:
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return Decoded(image.convert("L"))
    full = image.convert("RGBA")
    *_, alpha = full.split()
    grey = image.mode in GREY_MODES or (image.mode in ("P", "PA") and _is_grey(full))
    colour = full.getchannel(0) if grey else full.convert("RGB")
    return Decoded(colour, None if alpha.getextrema() == (255, 255) else alpha)


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(image.getchannel(channel)) for channel in range(3))
    return bool((red == green).all() and (green == blue).all())


def _pixels(name: str, image: Decoded, channels: int) -> torch.Tensor:
    """uint8 [channels, H, W]."""
    colour = image.colour
    if channels not in MODES:
        raise MismatchError(f"image files have 1, 3 or 4 channels and not {channels}; give an .npz file of statistics")
    if channels == 1 and colour.mode != "L":
        if not _is_grey(colour):
            raise MismatchError(f"{name} has colours, but grey images are wanted; give others, or a detector for RGB")
        colour = colour.getchannel(0)
    colour = colour.convert(MODES[channels])
    if channels == 4 and image.alpha is not None:
        colour.putalpha(image.alpha)
    pixels = np.array(colour)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
