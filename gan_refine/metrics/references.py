"""Reference statistics of a detector's features: .npz files with `mu` and `sigma`, as those that others publish for FID."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from gan_refine.errors import FileFormatError, MismatchError, first_line
from gan_refine.files import atomic_file
from gan_refine.finite import require_finite
from gan_refine.metrics.detectors import Detector
from gan_refine.metrics.moments import Covariance, Mean
from gan_refine.metrics.statistics import FeatureStatistics

# What numpy and zipfile raise for damaged or encrypted files, unknown compression, and headers with absurd sizes.
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    TypeError,
    SyntaxError,
    RuntimeError,
    MemoryError,
    KeyError,
    zlib.error,
    zipfile.BadZipFile,
)
MOST_NAMES = 8  # of other arrays, in a message
FIELDS = {"mu", "sigma", "num_images", "ddof", "detector", "features", "source"}


@dataclass(frozen=True)
class Reference:
    """Mean [d] and covariance [d, d] of features in float64. A field is None if the file does not record it.

    The covariance is divided by `num_images` - `ddof`. `features` [m, d] is a uniform sample for metrics that need more
    than moments. `source` is "data", or "teacher" if the images are samples of a teacher; a distance to those is not FID.
    """

    mean: Mean
    covariance: Covariance
    num_images: int | None = None
    ddof: int | None = None
    detector: str | None = None
    features: Float32[Tensor, "m d"] | None = None
    source: str = "data"
    images_read: str | None = None  # how many image files it was made of, and what was skipped

    @property
    def can_rescale(self) -> bool:
        """Whether the divisor of the covariance is known."""
        return self.num_images is not None and self.ddof is not None and self.num_images > 1

    def covariance_with(self, ddof: int) -> Covariance:
        """The covariance divided by N - `ddof` if N and its own divisor are known, else unchanged."""
        if not self.can_rescale or self.ddof == ddof:
            return self.covariance
        assert self.num_images is not None and self.ddof is not None, "can_rescale"
        return self.covariance * ((self.num_images - self.ddof) / (self.num_images - ddof))

    def check(self, detector: Detector) -> None:
        """Raises MismatchError if the reference records another detector, or has another number of features."""
        if self.detector is not None and self.detector != detector.name:
            raise MismatchError(
                f"reference was made with detector {self.detector} but {detector.name} is used; choose the same for both"
            )
        if len(self.mean) != detector.num_features:
            raise MismatchError(
                f"reference has {len(self.mean)} features but detector {detector.name} gives {detector.num_features}"
            )


def sample_of(reference: Reference, metric: str) -> Float32[Tensor, "m d"]:
    """The feature sample of the reference. Raises MismatchError if it holds only moments; `metric` is named in the message."""
    if reference.features is None:
        raise MismatchError(
            f"{metric} needs features of the reference, which holds only mean and covariance; "
            "give images (a folder or a zip) or --fid-ref=teacher"
        )
    return reference.features


def sample_sizes(fake: FeatureStatistics, reference: Reference) -> dict[str, object]:
    """The numbers of feature vectors that a metric uses: of the generated images and of the reference."""
    assert fake.sample is not None, "collected because of the requirements"
    return {"sample_sizes": [len(fake.sample.features), len(sample_of(reference, "a metric"))]}


def reference_of(statistics: FeatureStatistics, source: str = "data") -> Reference:
    """The reference of a complete stream: covariance over N - 1, and the feature sample if one was collected."""
    mean, covariance = statistics.moments.mean.cpu(), statistics.moments.covariance(ddof=1).cpu()
    features = None if statistics.sample is None else statistics.sample.features
    return Reference(mean, covariance, statistics.num_images, 1, statistics.detector_name, features, source)


def load_reference(path: Path | str) -> Reference:
    """Reads `mu` [d], `sigma` [d, d] and optional `num_images`, `ddof`, `detector`, `features`, `source`. Never unpickles.

    Raises FileFormatError if the file is missing or damaged, holds pickled objects, or has no valid mean and covariance.
    """
    arrays = _read_arrays(path)
    try:
        mean, covariance = (_real(key, arrays[key]) for key in ("mu", "sigma"))
        num_images, ddof = (_whole(key, arrays[key]) if key in arrays else None for key in ("num_images", "ddof"))
        detector = str(arrays["detector"][()]) if "detector" in arrays else None
        source = str(arrays["source"][()]) if "source" in arrays else "data"
        features = _real("features", arrays["features"]).to(torch.float32) if "features" in arrays else None
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"reference {path} holds fields of the wrong kind ({error})") from error
    _check_moments(path, mean, covariance)
    if ddof not in (None, 0, 1) or (num_images is not None and num_images < 1):
        raise FileFormatError(f"reference {path} states num_images {num_images} and ddof {ddof}; ddof is 0 or 1")
    if features is not None and (features.ndim != 2 or features.shape[1] != len(mean)):
        raise FileFormatError(f"reference {path} has features {list(features.shape)}; [m, {len(mean)}] are needed")
    require_finite([("features", features)] if features is not None else [], f"reference {path}")
    return Reference(mean, covariance, num_images, ddof, detector, features, source)


def _real(name: str, array: np.ndarray) -> torch.Tensor:
    """float64; raises ValueError for complex numbers, texts and objects, which numpy would convert with a loss."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is of type {array.dtype}, not of real numbers")
    return torch.from_numpy(array.astype(np.float64))


def _whole(name: str, array: np.ndarray) -> int:
    value = _real(name, array)
    if value.numel() != 1 or value.item() != int(value.item()):
        raise ValueError(f"{name} is no whole number")
    return int(value.item())


def _read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """The arrays that a reference may have. Raises FileFormatError, which lists what a file without mu or sigma holds."""
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":  # numpy would take it for a pickle and advise to allow pickles
                raise FileFormatError(
                    f"{path} is not an .npz file with mu and sigma, and not a folder or zip of images"
                )
        with np.load(path, allow_pickle=False) as opened:
            missing = {"mu", "sigma"} - set(opened.files)
            if missing:
                raise FileFormatError(f"reference {path} lacks {' and '.join(sorted(missing))}; {_advice(opened)}")
            return {key: opened[key] for key in opened.files if key in FIELDS}
    except UNREADABLE as error:
        raise FileFormatError(
            f"cannot read reference {path} as an .npz file without pickles ({first_line(error)})"
        ) from error


def _advice(opened: np.lib.npyio.NpzFile) -> str:
    """What an .npz file of other names holds, and what to do with it."""
    names = opened.files
    shapes = {name: shape for name in names[:MOST_NAMES] if (shape := _shape(opened, name)) is not None}
    shown = [
        f"{_printable(name)} {list(shapes[name])}" if name in shapes else _printable(name)
        for name in names[:MOST_NAMES]
    ]
    held = f"it holds {', '.join(shown) or 'nothing'}{' ...' if len(names) > MOST_NAMES else ''}"
    square = next((name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == shape[1]), None)
    vector = next((name for name, shape in shapes.items() if square and shape == shapes[square][:1]), None)
    images = next((name for name, shape in shapes.items() if len(shape) == 4), None)
    if vector is not None:
        rename = f"np.savez('new.npz', mu=old[{vector!r}], sigma=old[{square!r}])"
        return f"{held}; if these are mean and covariance of a detector's features, rename them: {rename}"
    if images is not None:
        return f"{held}; {_printable(images)} looks like images: write them as PNG files into a folder or zip, and give that"
    return f"{held}; mean and covariance of a detector's features are needed, under the names mu and sigma"


def _printable(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:80])


def _shape(opened: np.lib.npyio.NpzFile, name: str) -> tuple[int, ...] | None:
    """The shape that an array's header states; None if it has none that numpy reads."""
    assert opened.zip is not None, "it is open"
    try:
        with opened.zip.open(name if name in opened.zip.namelist() else f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(stream)[0]
    except UNREADABLE:
        return None


def save_reference(path: Path, reference: Reference) -> None:
    """Writes the file that `load_reference` reads, atomically, without the fields that are None. Raises OSError."""
    source = None if reference.source == "data" else reference.source
    features = None if reference.features is None else reference.features.numpy()
    optional: dict[str, object] = {
        "num_images": reference.num_images,
        "ddof": reference.ddof,
        "detector": reference.detector,
    }
    optional |= {"features": features, "source": source}
    arrays = {"mu": reference.mean.cpu().numpy(), "sigma": reference.covariance.cpu().numpy()}
    arrays.update({key: np.asarray(value) for key, value in optional.items() if value is not None})
    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type] # its keyword for pickles is none of these


def _check_moments(path: Path | str, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        got = f"mu {list(mean.shape)} and sigma {list(covariance.shape)}"
        raise FileFormatError(f"reference {path} has {got}; a mean [d] and its covariance [d, d] are needed")
    require_finite([("mu", mean), ("sigma", covariance)], f"reference {path}")
    if (covariance.diagonal() < 0).any():
        raise FileFormatError(f"reference {path} has a sigma with negative variances, which is not a covariance")
    if not torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * float(covariance.abs().max())):
        raise FileFormatError(f"reference {path} has a sigma that is not symmetric, which is not a covariance")
