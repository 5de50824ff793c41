"""What `gan-refine generate` needs: the images of seeds and classes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from gan_refine.config import STEPS, require, shortened
from gan_refine.errors import OptionError
from gan_refine.evaluation import SampledTeacher, render
from gan_refine.interfaces import Generator, ImageSpec, Latents, PixelBytes
from gan_refine.run.networks import open_gan, open_teacher

MAX_IMAGES = 1_000_000
BATCH = 16


@dataclass(frozen=True)
class Picture:
    """Seed, class and file name of one image."""

    seed: int
    label: int | None
    name: str


def open_source(gan: str | None, teacher: str | None, which: str, steps: int, trust: bool, device: str) -> Generator:
    """The generator of --gan, or the teacher of --teacher as a generator of its samples. Raises UserError."""
    if gan is not None:
        return open_gan(gan, which, trust).generator.to(device)
    require("teacher_steps", steps, STEPS.holds(steps), str(STEPS))
    assert teacher is not None, "refuse_unused has seen that one is given"
    return SampledTeacher(open_teacher(teacher, trust, device).denoiser, steps)


def images(generator: Generator, pictures: list[Picture], random_noise: bool = False) -> Iterator[PixelBytes]:
    """The images [C, H, W] of the pictures, in order; each depends on its own seed and class only."""
    batch = 1 if random_noise else BATCH  # a batch has a single noise seed
    for start in range(0, len(pictures), batch):
        part = pictures[start : start + batch]
        latents = seeded_latents(generator, part)
        yield from render(generator, replace(latents, noise_seed=part[0].seed) if random_noise else latents).cpu()


def seeded_latents(generator: Generator, pictures: list[Picture]) -> Latents:
    """z of each seed as StyleGAN's tools draw it, by numpy.random.RandomState; constant noise."""
    like = generator.draw(1, torch.Generator())
    drawn = [np.random.RandomState(picture.seed).randn(*like.z.shape) for picture in pictures]
    labels = torch.zeros([len(pictures), generator.spec.num_classes])
    for row, picture in enumerate(pictures):
        if picture.label is not None:
            labels[row, picture.label] = 1
    z = torch.from_numpy(np.concatenate(drawn)).to(like.z)
    return Latents(z, labels.to(like.labels))


def choose_labels(spec: ImageSpec, text: str | None) -> list[int | None]:
    """The classes to show. Raises OptionError if classes are given without need, or needed and not given."""
    if not spec.num_classes:
        if text is not None:
            raise OptionError(
                f"--class={shortened(text)} is given, but the generator makes {spec} images without classes; leave it out"
            )
        return [None]
    if text is None:
        raise OptionError(f"the generator makes {spec}; choose with --class=0 or --class=0-{spec.num_classes - 1}")
    return list(parse_numbers("class", text, spec.num_classes - 1))


def parse_numbers(name: str, text: str, largest: int) -> list[int]:
    """The numbers of `1,2,5-9`, in that order. Raises OptionError."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,10})(?:-([0-9]{1,10}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= largest or len(found) + last - first >= MAX_IMAGES:
            allowed = f"numbers and rising ranges from 0 to {largest}, such as 0-{min(largest, 35)} or 1,2,5"
            raise OptionError(f"--{name}={shortened(text)} is not understood; give {allowed}")
        found += range(first, last + 1)
    return found
