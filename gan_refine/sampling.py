"""Deterministic samplers of the teacher along the probability-flow ODE: UniPC, and EDM's Heun sampler, which its FIDs are of."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.config import DEFAULT_STEPS
from gan_refine.interfaces import Denoiser, Images, Labels
from gan_refine.labels import Frequencies, draw_labels
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
    """EDM's second-order sampler (Algorithm 1 of arXiv:2206.00364 without churn), with 2 steps - 1 calls of the denoiser.

    Maps unit-variance latents to samples in about [-1, 1]; the state is float64. `sigma_min` and `sigma_max` are clamped
    to the denoiser's range.
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
    """dx/dsigma = (x - D(x; sigma)) / sigma: the probability-flow ODE for sigma(t) = t, eq. 3 with eq. 1 of arXiv:2206.00364."""
    level = torch.full([len(x), 1, 1, 1], sigma, dtype=torch.float32, device=x.device)
    denoised = denoiser(x.to(torch.float32), level, labels)
    return (x - denoised.to(torch.float64)) / sigma


@torch.no_grad()
def unipc(
    denoiser: Denoiser,
    latents: Float[Tensor, "n c h w"],
    labels: Labels,
    steps: int = DEFAULT_STEPS,
    sigma_min: float = 0.01,
    sigma_max: float = 80.0,
) -> Float64[Tensor, "n c h w"]:
    """A predictor-corrector sampler of third order with one call of the denoiser a step (UniPC, arXiv:2302.04867).

    In u = -ln sigma the ODE is dx/du = D - x. Its linear part is solved exactly. D is the polynomial through its last three
    values for the prediction; once D is known at the predicted image, the step is repeated with the polynomial through that value
    and the two before it. The levels are equidistant in u, and then 0. Latents, state and limits are as in `heun`.
    """
    assert steps >= 1, "a sampler takes at least one step"
    low, high = denoiser.sigma_range
    levels = [*np.geomspace(min(sigma_max, high), max(sigma_min, low), steps).tolist(), 0.0]
    x = start = latents.to(torch.float64) * levels[0]
    known: list[tuple[float, Tensor]] = []  # (u, D) of the last steps, latest first
    for sigma, following in itertools.pairwise(levels):
        level = torch.full([len(x), 1, 1, 1], sigma, dtype=torch.float32, device=x.device)
        denoised = denoiser(x.to(torch.float32), level, labels).to(torch.float64)
        if following == 0:
            return denoised
        u = -math.log(sigma)
        if known:
            x = integrate(start, known[0][0], u, [(u, denoised), *known[:2]])
        known = [(u, denoised), *known[:2]]
        start, x = x, integrate(x, u, -math.log(following), known)
    raise AssertionError("the last level is 0")


def integrate(x: Tensor, start: float, end: float, known: Sequence[tuple[float, Tensor]]) -> Tensor:
    """x(end) of dx/du = D(u) - x, where D is the polynomial through the `known` points (u, D)."""
    step = end - start
    # integrals of exp(v - step) v^k over v in [0, step]
    moments = [-math.expm1(-step)]
    for power in range(1, len(known)):
        moments.append(step**power - power * moments[-1])
    nodes = np.array([u - start for u, _ in known])
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(moments))
    return math.exp(-step) * x + sum(
        float(weight) * denoised for weight, (_, denoised) in zip(weights, known, strict=True)
    )


SAMPLERS: dict[str, Callable[..., Tensor]] = {"unipc": unipc, "heun": heun}


def sample_images(
    denoiser: Denoiser,
    num_images: int,
    steps: int,
    batch: int,
    rng: torch.Generator,
    part: tuple[int, int] = (0, 1),
    frequencies: Frequencies | None = None,
    sampler: str = "unipc",
) -> Iterator[tuple[Images, Labels]]:
    """Batches of float32 samples [batch, C, R, R] and their one-hot labels, `num_images` images in all.

    `part` (r, n) gives only the batches r, r + n, r + 2 n ...: the n parts together are the images of (0, 1). `rng` is on
    the CPU; `sampler` is a name in SAMPLERS; `frequencies` of None are uniform.
    """
    spec = denoiser.spec
    device = next(denoiser.parameters()).device
    # All labels at once, so that they do not depend on the batch size.
    all_labels = draw_labels(num_images, spec.num_classes, rng, frequencies)
    for number, labels in enumerate(all_labels.split(batch)):
        latents = torch.randn([len(labels), spec.channels, spec.resolution, spec.resolution], generator=rng)
        if number % part[1] != part[0]:
            continue
        labels = labels.to(device)
        yield SAMPLERS[sampler](denoiser, latents.to(device), labels, steps=steps).to(torch.float32), labels
