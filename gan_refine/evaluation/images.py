"""Images of a generator or a teacher as uint8 streams, from latents that depend on the seed alone, and picture grids.

A stream is shared between processes: each makes its own part, with the index of each batch in the whole stream.
"""

from collections.abc import Iterator

import torch

from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser, Generator, Latents, PixelBytes
from gan_refine.labels import Frequencies
from gan_refine.metrics import OnProgress, ignore_progress
from gan_refine.noise import rng_for
from gan_refine.pixels import to_uint8
from gan_refine.sampling import sample_images

CHUNK = 250  # latents are drawn in chunks of this size, so that results do not depend on memory options
PIXELS_AT_ONCE = (
    2**22
)  # of a forward pass of a generator; its activations take about 100 times the memory of the images
EVALUATION_STREAM, GRID_STREAM, TEACHER_STREAM = 1001, 1002, 1003  # of `rng_for`; training steps use other streams

IndexedImages = Iterator[tuple[int, PixelBytes]]  # index of the first image in the whole stream, images [N, C, H, W]


@torch.no_grad()
def generator_images(
    generator: Generator, num_images: int, seed: int, progress: OnProgress = ignore_progress
) -> IndexedImages:
    """This process's part of `num_images` images. Generators of one latent size get the same latents from one seed."""
    batch = _batch_size(generator)
    stride = CHUNK * distributed.get_world_size()
    for start in range(CHUNK * distributed.get_rank(), num_images, stride):
        latents = generator.draw(min(CHUNK, num_images - start), rng_for(seed, 0, start, EVALUATION_STREAM))
        first = start
        for part in latents.split(batch):
            yield first, to_uint8(generator(part))
            progress(len(part))
            first += len(part)


def teacher_images(
    teacher: Denoiser,
    num_images: int,
    steps: int,
    seed: int,
    progress: OnProgress = ignore_progress,
    frequencies: Frequencies | None = None,
    sampler: str = "unipc",
) -> IndexedImages:
    """This process's part of `num_images` samples of the teacher, by a deterministic sampler of SAMPLERS with `steps` steps."""
    part = distributed.get_rank(), distributed.get_world_size()
    rng = rng_for(seed, 0, 0, TEACHER_STREAM)
    first = CHUNK * part[0]
    for images, _ in sample_images(teacher, num_images, steps, CHUNK, rng, part, frequencies, sampler):
        yield first, to_uint8(images)
        progress(len(images))
        first += CHUNK * part[1]


def stored_images(images: PixelBytes) -> IndexedImages:
    """This process's part of images that are there already."""
    stride = CHUNK * distributed.get_world_size()
    for first in range(CHUNK * distributed.get_rank(), len(images), stride):
        yield first, images[first : first + CHUNK]


def grid_latents(generator: Generator, seed: int, n: int = 64) -> Latents:
    """The latents of the grid in fakes*.png."""
    return generator.draw(n, rng_for(seed, 0, 0, GRID_STREAM))


@torch.no_grad()
def render(generator: Generator, latents: Latents) -> PixelBytes:
    """The images of these latents as bytes [N, C, H, W], in batches of bounded memory."""
    return torch.cat([to_uint8(generator(part)) for part in latents.split(_batch_size(generator))])


def _batch_size(generator: Generator) -> int:
    return max(PIXELS_AT_ONCE // generator.spec.resolution**2, 1)
