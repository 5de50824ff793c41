"""Figures and pictures of a generator or a teacher, from latents that depend on the seed alone.

With several processes each makes its share of the images, and all get the figures of the whole.
"""

from collections.abc import Callable, Iterator

import torch

from gan_refine.interfaces import Denoiser, Generator, Latents, Metric, PixelBytes
from gan_refine.labels import Frequencies
from gan_refine.metrics import to_uint8
from gan_refine.noise import rng_for
from gan_refine.sampling import sample_images
from torch_utils import distributed

CHUNK = 250  # latents are drawn in chunks of this size, so that figures do not depend on memory options
PIXELS_AT_ONCE = 2**22  # of a generator's pass, whose activations take about a hundred times the memory of the images
EVALUATION_STREAM, GRID_STREAM, TEACHER_STREAM = 1001, 1002, 1003  # apart from those of the training steps

MakeMetric = Callable[[], Metric]


@torch.no_grad()
def show_generator(
    generator: Generator, metric: Metric, num_images: int, seed: int, tick: Callable[[int], object] = lambda n: None
) -> None:
    """Gives `metric` this process's share of the images; the same latents for every generator of one latent size.

    `tick` hears of each batch's size.
    """
    stride = CHUNK * distributed.get_world_size()
    batch = max(PIXELS_AT_ONCE // generator.spec.resolution**2, 1)
    for start in range(CHUNK * distributed.get_rank(), num_images, stride):
        latents, first = (
            generator.draw(min(CHUNK, num_images - start), rng_for(seed, 0, start, EVALUATION_STREAM)),
            start,
        )
        for part in latents.split(batch):
            metric.update(to_uint8(generator(part)), first)
            tick(len(part))
            first += len(part)


def teacher_images(
    teacher: Denoiser,
    num_images: int,
    steps: int,
    seed: int,
    tick: Callable[[int], object],
    frequencies: Frequencies | None = None,
    sampler: str = "heun",
) -> Iterator[tuple[int, PixelBytes]]:
    """This process's share of a deterministic sampler's images, each batch with the number of its first.

    `tick` hears of each batch's size.
    """
    part = distributed.get_rank(), distributed.get_world_size()
    rng = rng_for(seed, 0, 0, TEACHER_STREAM)
    first = CHUNK * part[0]
    for images, _ in sample_images(teacher, num_images, steps, CHUNK, rng, part, frequencies, sampler):
        yield first, to_uint8(images)
        tick(len(images))
        first += CHUNK * part[1]


def distance_of_generator(generator: Generator, make_metric: MakeMetric, num_images: int, seed: int) -> float:
    """The metric's main figure on `num_images` images."""
    metric = make_metric()
    show_generator(generator, metric, num_images, seed)
    return metric.result()[metric.name]


def distance_of_teacher(
    teacher: Denoiser,
    make_metric: MakeMetric,
    num_images: int,
    steps: int,
    seed: int,
    tick: Callable[[int], object],
    frequencies: Frequencies | None = None,
) -> float:
    """The metric's main figure on samples of the deterministic sampler."""
    metric = make_metric()
    for first, images in teacher_images(teacher, num_images, steps, seed, tick, frequencies):
        metric.update(images, first)
    return metric.result()[metric.name]


def grid_latents(generator: Generator, seed: int, n: int = 64) -> Latents:
    """The latents of the pictures fakes*.png."""
    return generator.draw(n, rng_for(seed, 0, 0, GRID_STREAM))


@torch.no_grad()
def render(generator: Generator, latents: Latents) -> PixelBytes:
    """Images as bytes [N, C, H, W], large ones made a few at a time."""
    batch = max(PIXELS_AT_ONCE // generator.spec.resolution**2, 1)
    return torch.cat([to_uint8(generator(part)) for part in latents.split(batch)])
