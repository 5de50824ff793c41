"""The teacher's own multi-step sampler: deterministic, second order (Algorithm 1 of arXiv:2206.00364 without churn)."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.interfaces import Denoiser, Images, Labels
from gan_refine.labels import Frequencies, draw_labels
from gan_refine.noise import karras_grid

# In image units 2.5 of 255 grey levels: the ODE moves nothing that the eye sees below.
CARRY_SIGMA_MIN = 0.02


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


def from_noise(denoiser: Denoiser, latents: Float[Tensor, "n c h w"], labels: Labels, steps: int = 20) -> Images:
    """Unit-variance latents -> samples with `steps` calls of the denoiser, by `multistep` over the grid of `heun`."""
    levels = karras_grid(steps, *denoiser.sigma_range, rho=7.0)
    return multistep(denoiser, latents * levels[0], labels, levels)


SAMPLERS: dict[str, Callable[..., Tensor]] = {"heun": heun, "multistep": from_noise}


def sample_images(
    denoiser: Denoiser,
    num_images: int,
    steps: int,
    batch: int,
    rng: torch.Generator,
    part: tuple[int, int] = (0, 1),
    frequencies: Frequencies | None = None,
    sampler: str = "heun",
) -> Iterator[tuple[Images, Labels]]:
    """Batches of float32 samples, `num_images` in all, with labels by their frequencies where there are classes.

    `part` (r, n) gives batches r, r + n, r + 2 n ... alone: n of them are together the same images as one whole. `rng` is
    on the CPU.
    """
    spec = denoiser.spec
    device = next(denoiser.parameters()).device
    # All at once, so that the samples do not depend on the size of the batches.
    all_labels = draw_labels(num_images, spec.num_classes, rng, frequencies)
    for number, labels in enumerate(all_labels.split(batch)):
        latents = torch.randn([len(labels), spec.channels, spec.resolution, spec.resolution], generator=rng)
        if number % part[1] != part[0]:
            continue
        labels = labels.to(device)
        yield SAMPLERS[sampler](denoiser, latents.to(device), labels, steps=steps).to(torch.float32), labels


@torch.no_grad()
def multistep(denoiser: Denoiser, x: Images, labels: Labels, levels: Sequence[float]) -> Images:
    """Images at noise level levels[0] -> at levels[-1] along the probability-flow ODE, one call of the denoiser a step.

    Levels rise or fall; a last one of 0 gives the denoised image. In u = -ln sigma the ODE is dx/du = D - x: the linear part is
    solved exactly and D is a polynomial through its last three values (third-order multistep, after arXiv:2211.01095, section 4).
    """
    known: list[tuple[float, Images]] = []  # (u, D) of the last two steps, the newest first
    for sigma, following in itertools.pairwise(levels):
        denoised = denoiser(x, torch.full([len(x), 1, 1, 1], sigma, device=x.device), labels)
        if following == 0:
            return denoised
        u = -math.log(sigma)
        step = -math.log(following) - u
        keep = math.exp(-step)
        x = keep * x + (1 - keep) * denoised
        if known:
            gap = u - known[0][0]
            slope = (denoised - known[0][1]) / gap
            linear = step - 1 + keep  # the integral of exp(u - step) u over the step
            x = x + linear * slope
            if len(known) == 2:
                before = (known[0][1] - known[1][1]) / (known[0][0] - known[1][0])
                bend = (slope - before) / (u - known[1][0])
                x = x + (step**2 - 2 * linear + gap * linear) * bend
        known = [(u, denoised), *known[:1]]
    return x


def carry(source: Denoiser, target: Denoiser, images: Images, labels: Labels, sigma_max: float, steps: int) -> Images:
    """Images of `source`'s distribution as images of `target`'s: up to `sigma_max` along one's ODE and down along the other's.

    Deterministic, 2 `steps` calls (dual diffusion implicit bridges, arXiv:2203.08382). The result is distributed as `target`'s
    samples as far as both distributions agree at `sigma_max`; with equal denoisers nothing moves but by the step's error.
    """
    low = max(CARRY_SIGMA_MIN, source.sigma_range[0], target.sigma_range[0])
    falling = karras_grid(steps, low, sigma_max, rho=7.0)
    lifted = multistep(source, images, labels, falling[-2::-1])
    return multistep(target, lifted, labels, falling)
