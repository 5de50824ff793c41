"""The metrics of one generator in one call."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from gan_refine import assets
from gan_refine.config import IMAGES, SEED, require
from gan_refine.errors import UserNotice
from gan_refine.evaluation.samples import Teacher
from gan_refine.evaluation.yardsticks import NUM_IMAGES, YardstickOptions, find_sources
from gan_refine.interfaces import Denoiser, Generator
from gan_refine.sampling import DEFAULT_STEPS
from gan_refine.teachers import load_edm


def evaluate(
    generator: Generator,
    *,
    metrics: str = "fd",
    detector: str | Sequence[str] = "auto",
    reference: str | Path = "auto",
    teacher: Teacher | Denoiser | str | Path | None = None,
    teacher_steps: int = DEFAULT_STEPS,
    images: int = NUM_IMAGES,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics of `images` images of a generator, on its device: {"fd2000-fashion16": 8.66}.

    The texts are those of the options --metrics, --detector and --fid-ref. With a `teacher`, an EDM pickle by name, path or URL or
    a denoiser on the same device, figures against its samples come first; they are cached unless it is a bare denoiser.
    The same seed gives the same latents. Warns of too few images for a figure. Under torchrun every process must call it.
    Raises UserError.
    """
    require("seed", seed, SEED.holds(seed), str(SEED))
    require("images", images, IMAGES.holds(images), str(IMAGES))
    device = next(generator.parameters()).device
    opened = None if teacher is None else _open_teacher(teacher, device)
    detectors = (detector,) if isinstance(detector, str) else tuple(detector)
    options = YardstickOptions(metrics, detectors, str(reference), images, teacher_steps)
    sources = find_sources(options, generator.spec, opened, device)
    for text in sources.few_images("images"):
        warnings.warn(text, UserNotice, stacklevel=2)
    results = sources.open().measure(generator, seed)
    return {name: value for result in results for name, value in result.values.items()}


def _open_teacher(teacher: Teacher | Denoiser | str | Path, device: torch.device) -> Teacher:
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, Denoiser):
        return Teacher(None, teacher)
    path = assets.resolve("teacher", str(teacher))
    return Teacher(path, load_edm(path).to(device))
