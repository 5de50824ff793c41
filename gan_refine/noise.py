"""Distributions of sigma, loss weights, and noise on images. Random numbers are drawn where their generator is."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from gan_refine.interfaces import Images, Sigma


@runtime_checkable
class SigmaDistribution(Protocol):
    """A distribution of sigma, the standard deviation of the noise for pixels in [-1, 1]."""

    def sample(self, n: int, rng: torch.Generator, device: torch.device | str = "cpu") -> Sigma:
        """`n` values [n, 1, 1, 1] in float32 on `device`."""


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2); the defaults are EDM's training distribution (Table 1 of arXiv:2206.00364)."""

    mean: float = -1.2
    std: float = 1.2

    def sample(self, n: int, rng: torch.Generator, device: torch.device | str = "cpu") -> Sigma:
        return (self.mean + self.std * torch.randn([n, 1, 1, 1], generator=rng, device=rng.device)).exp().to(device)


@dataclass(frozen=True)
class Karras:
    """(min^(1/rho) + t (max^(1/rho) - min^(1/rho)))^rho, eq. 5 of EDM (arXiv:2206.00364), with t uniform in [lower, upper].

    t = 0 is sigma_min and t = 1 sigma_max. DMD uses 0.02 to 0.98 (arXiv:2311.18828), SiD 0 to 0.8 (arXiv:2404.04057).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    lower: float = 0.02
    upper: float = 0.98

    def sample(self, n: int, rng: torch.Generator, device: torch.device | str = "cpu") -> Sigma:
        uniform = torch.rand([n, 1, 1, 1], generator=rng, device=rng.device)
        t = self.lower + (self.upper - self.lower) * uniform
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return ((low + t * (high - low)) ** self.rho).to(device)


def add_noise(images: Images, sigma: Sigma, rng: torch.Generator) -> Images:
    """x + sigma n with n ~ N(0, I)."""
    noise = torch.randn(images.shape, generator=rng, dtype=images.dtype, device=rng.device)
    return images + sigma * noise.to(images.device)


def edm_weight(sigma: Sigma, sigma_data: float = 0.5) -> Sigma:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2, EDM's loss weight lambda(sigma) (Table 1 of arXiv:2206.00364)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def karras_grid(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """`steps` values of sigma from sigma_max down to sigma_min, and then 0: eq. 5 of EDM (arXiv:2206.00364)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    levels = [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)]
    assert all(math.isfinite(level) for level in levels), "finite limits give finite levels"
    return [*levels, 0.0]


def rng_for(seed: int, rank: int, images: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by these four numbers, so that a resumed run draws the same noise on the same kind of device.

    `images` is the number of images so far; `stream` is a constant of each use, so that no two uses share random numbers.
    """
    state = np.random.SeedSequence([seed, rank, images, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
