"""The reference that users name: auto, teacher, an .npz file, or images in a folder or a zip."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from gan_refine import assets
from gan_refine.config import build_options, parse_spec, require
from gan_refine.errors import FileFormatError, OptionError, UserError
from gan_refine.interfaces import Denoiser
from gan_refine.labels import Frequencies
from gan_refine.metrics import (
    EMBEDDED,
    Detector,
    Needs,
    Reference,
    Statistics,
    load_reference,
    reference_of,
    reference_of_images,
    save_reference,
)
from gan_refine.report.evaluation import teacher_images
from torch_utils import distributed

VERSION = 1  # of what is cached; a change of the sampler or of the file's fields raises it


@dataclass(frozen=True)
class TeacherReference:
    """`teacher,steps=18,images=50000,seed=0,sampler=heun`: whose samples and how many.

    Heun's sampler calls the teacher 2 steps - 1 times, the multistep one once a step.
    """

    steps: int = 18
    images: int = 10_000
    seed: int = 7_000_001  # apart from the seeds of evaluations, so that a teacher can be measured against itself
    sampler: Literal["heun", "multistep"] = "heun"

    def __post_init__(self) -> None:
        require("steps", self.steps, self.steps >= 2, "at least 2")
        require("images", self.images, self.images >= 2, "at least 2")


@dataclass(frozen=True)
class TeacherFile:
    """A denoiser, the file that it was read from, and how often its samples are of each class, None for all alike."""

    path: Path
    denoiser: Denoiser
    frequencies: Frequencies | None = None


def open_reference(
    text: str, detector: Detector, teacher: TeacherFile | None, tick: Callable[[int], object] = lambda n: None
) -> Reference:
    """The reference of a spec. `auto` is the embedded one of an embedded detector; `tick` hears of images looked at.

    Images are read, and a teacher sampled, only where the spec asks for it.
    """
    name, options = parse_spec(text)
    if name == "teacher":
        if teacher is None:
            raise OptionError("--fid-ref=teacher needs a teacher; give --teacher=FILE")
        return teacher_reference(teacher, detector, build_options(TeacherReference, options, "--fid-ref=teacher"), tick)
    if name == "auto":
        if detector.name not in EMBEDDED:
            raise OptionError(
                f"detector {detector.name} comes without a reference; give --fid-ref=teacher, an .npz file, a folder or a zip"
            )
        return load_reference(assets.resolve("reference", detector.name))
    path = Path(text)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return reference_of_images(path, detector, tick)
    try:
        file = assets.resolve("reference", text)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; or teacher, or a folder or zip of images") from error
    return load_reference(file)


def teacher_reference(
    teacher: TeacherFile, detector: Detector, options: TeacherReference, tick: Callable[[int], object] = lambda n: None
) -> Reference:
    """Moments and features of the teacher's own samples, from the cache if these very ones were made before.

    Raises FileFormatError for a damaged file of the cache, which the message says to delete.
    """
    path = assets.cache_folder() / "references" / f"{cache_key(teacher, detector, options)}.npz"
    found = torch.tensor(int(path.is_file() and distributed.is_rank0()), device=_device(teacher))
    if distributed.sum_across(found) > 0:  # one answer for all processes
        try:
            return load_reference(path)
        except UserError as error:
            raise FileFormatError(f"{error}; delete this file of the cache and run again") from error
    kept = Statistics(detector, options.images, Needs(sample=True))
    chosen = options.images, options.steps, options.seed
    for first, images in teacher_images(teacher.denoiser, *chosen, tick, teacher.frequencies, options.sampler):
        kept.update(detector.outputs(images), first)
    reference = reference_of(kept.across_processes(), source="teacher")
    if distributed.is_rank0():
        _store(path, reference)
    return reference


def _device(teacher: TeacherFile) -> torch.device:
    return next(teacher.denoiser.parameters()).device


def _store(path: Path, reference: Reference) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_reference(path, reference)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {path.parent} ({error.strerror}); set GAN_REFINE_CACHE to a folder that you may write to"
        ) from error


def cache_key(teacher: TeacherFile, detector: Detector, options: TeacherReference) -> str:
    """Digest of everything that the reference depends on."""
    parts = {"version": VERSION, "teacher": assets.sha256(teacher.path), **asdict(options)}
    parts |= {"detector": detector.digest()}
    if teacher.frequencies is not None and teacher.denoiser.spec.num_classes:
        parts |= {"labels": teacher.frequencies}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
