"""Reference moments of a detector's features over real images: .npz files with `mu` and `sigma`, as published."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gan_refine.errors import FileFormatError, MismatchError
from gan_refine.metrics.detectors import Detector
from gan_refine.metrics.moments import Covariance, Mean


@dataclass(frozen=True)
class Reference:
    """Mean [d] and covariance [d, d] in float64; None is what a file does not record."""

    mean: Mean
    covariance: Covariance
    num_images: int | None = None
    ddof: int | None = None
    detector: str | None = None

    def check(self, detector: Detector) -> None:
        """Raises MismatchError unless this was made with that detector, as far as the file tells."""
        if self.detector is not None and self.detector != detector.name:
            raise MismatchError(
                f"reference was made with detector {self.detector} but {detector.name} is used; choose matching ones"
            )
        if len(self.mean) != detector.num_features:
            raise MismatchError(
                f"reference has {len(self.mean)} features but detector {detector.name} gives {detector.num_features}"
            )


def load_reference(path: Path | str) -> Reference:
    """Reads `mu` [d], `sigma` [d, d] and optional `num_images`, `ddof`, `detector`. Never unpickles.

    Raises FileFormatError if the file is missing, damaged, holds pickled objects or is no mean with its covariance.
    """
    try:
        with np.load(path, allow_pickle=False) as opened:
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise FileFormatError(f"{path} is a single array, not an .npz file with mu and sigma")
            arrays = {key: opened[key] for key in opened.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileFormatError(f"cannot read reference {path} as an .npz file without pickles ({reason})") from error
    missing = {"mu", "sigma"} - arrays.keys()
    if missing:
        raise FileFormatError(f"reference {path} lacks {' and '.join(sorted(missing))}; it holds {sorted(arrays)}")
    try:
        mean, covariance = (torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma"))
        num_images, ddof = (int(arrays[key]) if key in arrays else None for key in ("num_images", "ddof"))
        detector = str(arrays["detector"][()]) if "detector" in arrays else None
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"reference {path} holds fields of the wrong kind ({error})") from error
    _check_moments(path, mean, covariance)
    return Reference(mean, covariance, num_images, ddof, detector)


def save_reference(path: Path, reference: Reference) -> None:
    """Writes what `load_reference` reads, atomically; fields that are None are left out."""
    optional = {"num_images": reference.num_images, "ddof": reference.ddof, "detector": reference.detector}
    arrays = {"mu": reference.mean.cpu().numpy(), "sigma": reference.covariance.cpu().numpy()}
    arrays.update({key: np.asarray(value) for key, value in optional.items() if value is not None})
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type] # its keyword for pickles is none of these
    temporary.replace(path)


def _check_moments(path: Path | str, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    if mean.ndim != 1 or len(mean) == 0 or covariance.shape != (len(mean), len(mean)):
        got = f"mu {list(mean.shape)} and sigma {list(covariance.shape)}"
        raise FileFormatError(f"reference {path} has {got}; a mean [d] and its covariance [d, d] are needed")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise FileFormatError(f"reference {path} holds numbers that are not finite")
    if not torch.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8 * float(covariance.abs().max())):
        raise FileFormatError(f"reference {path} has a sigma that is not symmetric, so not a covariance")
