"""The kernel distance (squared maximum mean discrepancy with a cubic kernel), KID in Inception features (arXiv:1801.01401)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.config import require
from gan_refine.errors import MismatchError
from gan_refine.metrics.references import Reference, sample_of, sample_sizes
from gan_refine.metrics.statistics import SAMPLE_SIZE, Needs, Statistics

Vectors = Float[Tensor, "m d"]
Others = Float[Tensor, "n d"]


@dataclass(frozen=True)
class Kernel:
    """Mean and deviation over `subsets` subsets of `subset_size` vectors of each side, drawn with a fixed seed."""

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020

    kind = "kd"
    higher_is_better = False
    needs = Needs(sample=True)

    def __post_init__(self) -> None:
        require("subsets", self.subsets, self.subsets >= 1, "at least 1")
        require("subset_size", self.subset_size, self.subset_size >= 2, "at least 2")

    def check(self, num_images: int, reference: Reference) -> None:
        """Raises MismatchError where a side has fewer vectors than a subset."""
        _check_sizes(min(num_images, SAMPLE_SIZE), len(sample_of(reference, "kd")), self.subset_size)

    def __call__(self, fake: Statistics, reference: Reference) -> dict[str, float]:
        assert fake.sample is not None, "asked for by needs"
        values = subset_distances(fake.sample.features, sample_of(reference, "kd"), self)
        return {"": float(values.mean()), "_std": float(values.std(correction=0))}

    def facts(self, fake: Statistics, reference: Reference) -> dict[str, object]:
        drawn = {"subsets": self.subsets, "subset_size": self.subset_size, "seed": self.seed}
        return {"kernel": "(x.y/d + 1)^3, unbiased", **drawn, **sample_sizes(fake, reference)}


def subset_distances(a: Vectors, b: Others, options: Kernel) -> Float64[Tensor, " subsets"]:
    """The unbiased estimate for each pair of subsets. Raises MismatchError where either side has too few vectors."""
    _check_sizes(len(a), len(b), options.subset_size)
    rng = np.random.RandomState(options.seed)  # legacy: its streams never change
    values = []
    for _ in range(options.subsets):
        parts = [x[torch.from_numpy(rng.choice(len(x), options.subset_size, replace=False))] for x in (a, b)]
        values.append(squared_mmd(*parts))
    return torch.stack(values)


def _check_sizes(made: int, real: int, subset_size: int) -> None:
    fewest = min(made, real)
    if fewest < subset_size:
        raise MismatchError(
            f"kd needs {subset_size} images on each side and has {fewest}; give more, or kd,subset_size={fewest}"
        )


def squared_mmd(a: Vectors, b: Vectors) -> Float64[Tensor, ""]:
    """Unbiased estimate between [m, d] and [m, d]; can be negative."""
    a, b = a.to(torch.float64), b.to(torch.float64)
    m, d = a.shape
    within = sum(_cubic(x, x, d).sum() - (x.square().sum(dim=1) / d + 1).pow(3).sum() for x in (a, b))
    return within / (m * (m - 1)) - 2 * _cubic(a, b, d).mean()


def _cubic(a: Tensor, b: Tensor, d: int) -> Tensor:
    return (a @ b.T / d + 1) ** 3
