"""The kernel distance: squared maximum mean discrepancy with a cubic kernel, in Inception features KID (arXiv:1801.01401)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.config import SEED, Range, require_ranges
from gan_refine.errors import MismatchError
from gan_refine.metrics.metric import Metric
from gan_refine.metrics.references import Reference, sample_of, sample_sizes
from gan_refine.metrics.statistics import SAMPLE_SIZE, FeatureStatistics, Requirements

Features = Float[Tensor, "m d"]
OtherFeatures = Float[Tensor, "n d"]


@dataclass(frozen=True)
class KernelDistance(Metric):
    """Mean and standard deviation (over N) of `subsets` estimates, each from `subset_size` vectors of either side.

    The subsets are drawn without replacement from the feature samples, with a fixed seed.
    """

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020

    kind = "kd"
    better = {"": "lower"}

    def __post_init__(self) -> None:
        require_ranges(self, {"subsets": Range(1, 10**6), "subset_size": Range(2, 10**6), "seed": SEED})

    @property
    def requirements(self) -> Requirements:
        return Requirements(sample=True)

    def check(self, num_images: int, reference: Reference) -> None:
        _check_sizes(min(num_images, SAMPLE_SIZE), len(sample_of(reference, "kd")), self.subset_size)

    def __call__(self, fake: FeatureStatistics, reference: Reference) -> dict[str, float]:
        assert fake.sample is not None, "collected because of the requirements"
        values = subset_distances(fake.sample.features, sample_of(reference, "kd"), self)
        return {"": float(values.mean()), "_std": float(values.std(correction=0))}

    def convention(self, fake: FeatureStatistics, reference: Reference) -> dict[str, object]:
        drawn = {"subsets": self.subsets, "subset_size": self.subset_size, "seed": self.seed}
        return {"kernel": "(x.y/d + 1)^3, unbiased", **drawn, **sample_sizes(fake, reference)}


def subset_distances(a: Features, b: OtherFeatures, options: KernelDistance) -> Float64[Tensor, " subsets"]:
    """The unbiased estimate for each pair of subsets. Raises MismatchError if either side has fewer vectors than a subset."""
    _check_sizes(len(a), len(b), options.subset_size)
    rng = np.random.RandomState(options.seed)  # legacy: its streams never change
    values = []
    for _ in range(options.subsets):
        parts = [x[torch.from_numpy(rng.choice(len(x), options.subset_size, replace=False))] for x in (a, b)]
        values.append(squared_mmd(*parts))
    return torch.stack(values)


def _check_sizes(num_fake: int, num_real: int, subset_size: int) -> None:
    fewest = min(num_fake, num_real)
    if fewest < subset_size:
        raise MismatchError(
            f"kd needs {subset_size} images on each side and has {fewest}; give more, or kd,subset_size={fewest}"
        )


def squared_mmd(a: Features, b: Features) -> Float64[Tensor, ""]:
    """The unbiased estimate between m vectors each, with the kernel (x.y / d + 1)^3; it can be negative."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    m, d = a.shape
    within = sum(_cubic_kernel(x, x, d).sum() - (x.square().sum(dim=1) / d + 1).pow(3).sum() for x in (a, b))
    return within / (m * (m - 1)) - 2 * _cubic_kernel(a, b, d).mean()


def _cubic_kernel(a: Tensor, b: Tensor, d: int) -> Tensor:
    return (a @ b.T / d + 1) ** 3
