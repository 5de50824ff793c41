"""Distances and pictures of a generator or a teacher, from latents that depend on the seed alone."""

from collections.abc import Callable

import torch

from gan_refine.interfaces import Denoiser, Generator, Latents, Metric, PixelBytes
from gan_refine.metrics import to_uint8
from gan_refine.noise import rng_for
from gan_refine.sampling import sample_images

CHUNK = 250  # latents are drawn in chunks of this size, so that figures do not depend on memory options
EVALUATION_STREAM, GRID_STREAM, TEACHER_STREAM = 1001, 1002, 1003  # apart from those of the training steps

MakeMetric = Callable[[], Metric]


@torch.no_grad()
def distance_of_generator(generator: Generator, make_metric: MakeMetric, num_images: int, seed: int) -> float:
    """The metric's value on `num_images` images; the same latents for every generator of one latent size."""
    metric = make_metric()
    for first in range(0, num_images, CHUNK):
        latents = generator.draw(min(CHUNK, num_images - first), rng_for(seed, 0, first, EVALUATION_STREAM))
        metric.update(to_uint8(generator(latents)))
    return metric.result()[metric.name]


@torch.no_grad()
def distance_of_teacher(
    teacher: Denoiser, make_metric: MakeMetric, num_images: int, steps: int, seed: int, tick: Callable[[int], object]
) -> float:
    """The metric's value on samples of the deterministic sampler; `tick` hears of each batch's size."""
    metric = make_metric()
    rng = rng_for(seed, 0, 0, TEACHER_STREAM)
    for images in sample_images(teacher, num_images, steps=steps, batch=CHUNK, rng=rng):
        metric.update(to_uint8(images))
        tick(len(images))
    return metric.result()[metric.name]


def grid_latents(generator: Generator, seed: int, n: int = 64) -> Latents:
    """The latents of the pictures fakes*.png."""
    return generator.draw(n, rng_for(seed, 0, 0, GRID_STREAM))


@torch.no_grad()
def render(generator: Generator, latents: Latents) -> PixelBytes:
    """Images as bytes [N, C, H, W]."""
    return to_uint8(generator(latents))
