"""The teacher's own samples, which generators are measured against: two disjoint sets of bytes, made once and cached."""

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gan_refine import assets
from gan_refine.config import LEARNING_SAMPLES, NUM_IMAGES, SEED, STEPS, require, require_ranges
from gan_refine.errors import FileFormatError, UserError, UserNotice, first_line
from gan_refine.evaluation.images import TEACHER_STREAM, teacher_images
from gan_refine.files import atomic_file, why_not_writable
from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser, Labels, PixelBytes
from gan_refine.labels import Frequencies, draw_labels
from gan_refine.metrics import OnProgress, ignore_progress
from gan_refine.metrics.references import UNREADABLE
from gan_refine.noise import rng_for
from gan_refine.precision import float32_products

VERSION = 2  # of the cached files; to be raised with a change of the sampler
USUAL = (NUM_IMAGES, LEARNING_SAMPLES // 2)  # images of each set by default: to measure against, and to learn from
SAMPLER = "unipc"  # with one call of the teacher for each step


@dataclass(frozen=True)
class SamplingOptions:
    """Which samples: two sets of `images`, with `steps` calls of the teacher for each image."""

    images: int
    steps: int
    seed: int = 7_000_001  # unlike the seeds of latents

    def __post_init__(self) -> None:
        require("teacher_steps", self.steps, STEPS.holds(self.steps), str(STEPS))
        require_ranges(self, {"seed": SEED})


@dataclass(frozen=True)
class Teacher:
    """A denoiser, the file that it was read from, and the frequencies of the classes of its samples, None for uniform.

    Its samples are cached under a digest of that file; with a `path` of None they are not cached.
    """

    path: Path | None
    denoiser: Denoiser
    frequencies: Frequencies | None = None


@dataclass(frozen=True)
class TeacherSamples:
    """Two disjoint sets of equal size: the reference, and others, whose distance to it is the floor of every distance."""

    reference: PixelBytes
    others: PixelBytes


def teacher_samples(
    teacher: Teacher, options: SamplingOptions, progress: OnProgress = ignore_progress
) -> TeacherSamples:
    """Both sets, read from the cache if they, or more of the same, were made before. Every process must call it and gets the whole.

    Raises FileFormatError if the file in the cache is damaged; warns before the first sample if the cache cannot be written.
    """
    path, held = (None, options) if teacher.path is None else _file(teacher, options)
    found = None if path is None else _read(path, teacher, held)
    if found is None:
        reason = None if path is None or not distributed.is_rank0() else why_not_writable(path.parent)
        if path is not None and reason is not None:
            _warn(path, reason)
            path = None
        found = _sample(teacher, options, progress)
        if path is not None and distributed.is_rank0():
            _keep(path, found)
    return TeacherSamples(found[: options.images], found[options.images : 2 * options.images])


def labels_of(teacher: Teacher, options: SamplingOptions) -> Labels:
    """The classes of both sets, one after the other."""
    rng = rng_for(options.seed, 0, 0, TEACHER_STREAM)
    return draw_labels(2 * options.images, teacher.denoiser.spec.num_classes, rng, teacher.frequencies)


def are_cached(teacher: Teacher, options: SamplingOptions) -> bool:
    """Whether `teacher_samples` will find both sets."""
    return teacher.path is not None and _file(teacher, options)[0].is_file()


def cached_images(teacher: Teacher, options: SamplingOptions) -> int:
    """The largest usual number of images in each set that is there with these steps and this seed; 0 if none is."""
    return max((n for n in USUAL if are_cached(teacher, replace(options, images=n))), default=0)


def cache_key(teacher: Teacher, options: SamplingOptions) -> str:
    """Digest of everything that the samples depend on."""
    assert teacher.path is not None, "only the samples of a teacher with a file are cached"
    parts: dict[str, object] = {"version": VERSION, "teacher": assets.sha256(teacher.path)}
    parts |= {**asdict(options), "sampler": SAMPLER}
    if teacher.frequencies is not None and teacher.denoiser.spec.num_classes:
        parts |= {"labels": teacher.frequencies}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _sample(teacher: Teacher, options: SamplingOptions, progress: OnProgress) -> PixelBytes:
    """The samples of all processes, in the order of their indices."""
    spec, total = teacher.denoiser.spec, 2 * options.images
    chosen = total, options.steps, options.seed, progress, teacher.frequencies, SAMPLER
    with float32_products(tf32=False):  # whatever a run takes: its cache is all runs'
        mine = list(teacher_images(teacher.denoiser, *chosen))
    empty = torch.zeros([0, spec.channels, spec.resolution, spec.resolution], dtype=torch.uint8)
    images = distributed.gather_across(torch.cat([empty, *(part.cpu() for _, part in mine)]))
    indices = [torch.arange(first, first + len(part)) for first, part in mine]
    order = distributed.gather_across(torch.cat([torch.zeros(0, dtype=torch.int64), *indices]))
    return images[order.argsort()]


def _file(teacher: Teacher, options: SamplingOptions) -> tuple[Path, SamplingOptions]:
    """The file of these samples and what is in it: of an unconditional teacher, one that has more of the same stream serves too.

    The classes of a conditional one are drawn first, so that its stream depends on their number.
    """
    longer = () if teacher.denoiser.spec.num_classes else tuple(n for n in USUAL if n > options.images)
    for held in (options, *(replace(options, images=n) for n in longer)):
        path = _path(cache_key(teacher, held))
        if path.is_file():
            return path, held
    return _path(cache_key(teacher, options)), options


def _path(key: str) -> Path:
    """The file of the samples in pretrained/ if they come with the project, else in the cache."""
    for path in assets.PRETRAINED.glob(f"*-samples-{key}.npz"):
        return path
    return assets.cache_folder() / "samples" / f"{key}.npz"


def _read(path: Path, teacher: Teacher, options: SamplingOptions) -> PixelBytes | None:
    """The samples in the file; None, on all processes alike, if rank 0 does not have it."""
    if not distributed.any_across(path.is_file() and distributed.is_rank0()):
        return None
    spec = teacher.denoiser.spec
    try:
        with np.load(path, allow_pickle=False) as opened:
            found = torch.from_numpy(opened["images"])
    except UNREADABLE as error:
        raise FileFormatError(f"{path} is damaged ({first_line(error)}); delete it and run again") from error
    shape = [2 * options.images, spec.channels, spec.resolution, spec.resolution]
    if found.dtype != torch.uint8 or list(found.shape) != shape:
        raise FileFormatError(f"{path} is damaged: it holds {list(found.shape)}, not {shape}; delete it and run again")
    return found


def _keep(path: Path, images: PixelBytes) -> None:
    try:
        store_samples(path, images)
    except UserError as error:  # the samples are good, whatever became of the disk since
        warnings.warn(str(error), UserNotice, stacklevel=2)


def _warn(path: Path, reason: str) -> None:
    advice = "the teacher's samples are not kept; set GAN_REFINE_CACHE to a writable folder"
    warnings.warn(f"cannot write to the cache {path.parent} ({reason}): {advice}", UserNotice, stacklevel=3)


def store_samples(path: Path, images: PixelBytes) -> None:
    """Writes the file atomically. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez_compressed(file, images=images.numpy())
    except OSError as error:
        raise UserError(
            f"cannot write to the cache {path.parent} ({error.strerror}); set GAN_REFINE_CACHE to a writable folder"
        ) from error
