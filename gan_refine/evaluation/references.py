"""The reference that --fid-ref names: auto, teacher, an .npz file, or images in a folder or a zip file."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from gan_refine import assets
from gan_refine.config import build_options, parse_spec, require
from gan_refine.errors import FileFormatError, OptionError, UserError
from gan_refine.evaluation.images import teacher_images
from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser
from gan_refine.labels import Frequencies
from gan_refine.metrics import (
    EMBEDDED_DETECTORS,
    Detector,
    FeatureStatistics,
    OnProgress,
    Reference,
    Requirements,
    ignore_progress,
    load_reference,
    reference_of,
    reference_of_images,
    save_reference,
)
from gan_refine.sampling import DEFAULT_STEPS

VERSION = 1  # of the cached files; to be raised with a change of the samplers or of the file's fields


@dataclass(frozen=True)
class SamplingOptions:
    """`teacher,steps=18,images=50000,seed=0,sampler=unipc`: which samples of the teacher, and how many.

    UniPC calls the teacher `steps` times for each image, Heun's sampler 2 steps - 1 times.
    """

    steps: int = DEFAULT_STEPS
    images: int = 10_000
    seed: int = 7_000_001  # unlike the seeds of evaluations, so that a teacher can be measured against itself
    sampler: Literal["unipc", "heun"] = "unipc"

    def __post_init__(self) -> None:
        require("steps", self.steps, self.steps >= 2, "at least 2")
        require("images", self.images, self.images >= 2, "at least 2")


@dataclass(frozen=True)
class Teacher:
    """A denoiser, the file that it was read from, and the frequencies of the classes of its samples, None for uniform.

    References of its samples are cached under a digest of that file; with a `path` of None they are not cached.
    """

    path: Path | None
    denoiser: Denoiser
    frequencies: Frequencies | None = None


def open_reference(
    text: str, detector: Detector, teacher: Teacher | None, progress: OnProgress = ignore_progress
) -> Reference:
    """The reference that --fid-ref names, in the features of `detector`. `auto` is the one of an embedded detector.

    Only `teacher` samples the teacher, and only a folder or a zip file is read image by image. Raises UserError.
    """
    name, options = parse_spec(text)
    if name == "teacher":
        if teacher is None:
            raise OptionError("--fid-ref=teacher needs a teacher; give --teacher=FILE")
        sampling = build_options(SamplingOptions, options, "--fid-ref=teacher")
        return teacher_reference(teacher, detector, sampling, progress)
    if name == "auto":
        if detector.name not in EMBEDDED_DETECTORS:
            raise OptionError(
                f"detector {detector.name} comes without a reference; give --fid-ref=teacher, an .npz file, a folder or a zip"
            )
        return load_reference(assets.resolve("reference", detector.name))
    path = Path(text)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return reference_of_images(path, detector, progress)
    try:
        file = assets.resolve("reference", text)
    except FileFormatError as error:
        raise FileFormatError(f"{error}; or teacher, or a folder or zip of images") from error
    return load_reference(file)


def teacher_reference(
    teacher: Teacher, detector: Detector, options: SamplingOptions, progress: OnProgress = ignore_progress
) -> Reference:
    """Moments and a feature sample of the teacher's own samples, read from the cache if these were made before.

    Every process must call it, and each gets the whole. Raises FileFormatError if the file in the cache is damaged, and
    UserError if the cache cannot be written.
    """
    path = None if teacher.path is None else _cache_path(cache_key(teacher, detector, options))
    if path is not None and _is_cached(path, next(teacher.denoiser.parameters()).device):
        try:
            return load_reference(path)
        except UserError as error:
            raise FileFormatError(f"{error}; delete this file of the cache and run again") from error
    statistics = FeatureStatistics(detector, options.images, Requirements(sample=True))
    chosen = options.images, options.steps, options.seed
    for first, images in teacher_images(teacher.denoiser, *chosen, progress, teacher.frequencies, options.sampler):
        statistics.update(detector.outputs(images), first)
    reference = reference_of(statistics.across_processes(), source="teacher")
    if path is not None and distributed.is_rank0():
        _store(path, reference)
    return reference


def cache_key(teacher: Teacher, detector: Detector, options: SamplingOptions) -> str:
    """Digest of everything that the reference depends on."""
    assert teacher.path is not None, "only the samples of a teacher with a file are cached"
    parts = {"version": VERSION, "teacher": assets.sha256(teacher.path), **asdict(options)}
    parts |= {"detector": detector.digest()}
    if teacher.frequencies is not None and teacher.denoiser.spec.num_classes:
        parts |= {"labels": teacher.frequencies}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _cache_path(key: str) -> Path:
    return assets.cache_folder() / "references" / f"{key}.npz"


def _is_cached(path: Path, device: torch.device) -> bool:
    """Whether rank 0 has the file; the same answer on all processes, which would otherwise wait for each other forever."""
    found = torch.tensor(int(path.is_file() and distributed.is_rank0()), device=device)
    return bool(distributed.sum_across(found) > 0)


def _store(path: Path, reference: Reference) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_reference(path, reference)
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {path.parent} ({error.strerror}); set GAN_REFINE_CACHE to a writable folder"
        ) from error
