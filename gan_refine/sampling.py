"""The teacher's own multi-step sampler: deterministic, second order (Algorithm 1 of arXiv:2206.00364 without churn)."""

import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.interfaces import Denoiser, Images, Labels
from gan_refine.noise import karras_grid


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    latents: Float[Tensor, "n c h w"],
    labels: Labels,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Float64[Tensor, "n c h w"]:
    """Unit-variance latents -> samples, with 2 steps - 1 calls of the denoiser and a float64 state.

    Limits beyond the denoiser's own range are brought into it.
    """
    assert steps >= 1, "a sampler takes at least one step"
    low, high = denoiser.sigma_range
    levels = karras_grid(steps, max(sigma_min, low), min(sigma_max, high), rho)
    x = latents.to(torch.float64) * levels[0]
    for sigma, following in itertools.pairwise(levels):
        slope = _slope(denoiser, x, sigma, labels)
        euler = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + _slope(denoiser, euler, following, labels)) / 2
        x = x + (following - sigma) * slope
    return x


def _slope(denoiser: Denoiser, x: Tensor, sigma: float, labels: Labels) -> Tensor:
    """dx/dsigma of the probability-flow ODE, eq. 3: (x - D(x; sigma)) / sigma."""
    level = torch.full([len(x), 1, 1, 1], sigma, dtype=torch.float32, device=x.device)
    denoised = denoiser(x.to(torch.float32), level, labels)
    return (x - denoised.to(torch.float64)) / sigma


def sample_images(
    denoiser: Denoiser, num_images: int, steps: int, batch: int, rng: torch.Generator, part: tuple[int, int] = (0, 1)
) -> Iterator[Images]:
    """Batches of float32 samples, `num_images` in all; labels are uniform over the classes. `rng` is on the CPU.

    `part` (r, n) gives batches r, r + n, r + 2 n ... alone: n of them are together the same images as one whole.
    """
    spec = denoiser.spec
    device = next(denoiser.parameters()).device
    all_labels = torch.zeros([num_images, spec.num_classes])
    if spec.num_classes:  # all at once, so that the samples do not depend on the size of the batches
        all_labels[torch.arange(num_images), torch.randint(spec.num_classes, [num_images], generator=rng)] = 1
    for number, labels in enumerate(all_labels.split(batch)):
        latents = torch.randn([len(labels), spec.channels, spec.resolution, spec.resolution], generator=rng)
        if number % part[1] != part[0]:
            continue
        yield heun(denoiser, latents.to(device), labels.to(device), steps=steps).to(torch.float32)
