"""Metrics of nearest neighbors: precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.config import Range, require_ranges
from gan_refine.errors import MismatchError
from gan_refine.metrics.metric import Metric
from gan_refine.metrics.references import Reference, sample_of, sample_sizes
from gan_refine.metrics.statistics import FeatureStatistics, Requirements

ROWS = 1000  # of a block of the distance matrix
Features = Float[Tensor, "m d"]
OtherFeatures = Float[Tensor, "n d"]


@dataclass(frozen=True)
class NearestNeighborMetric(Metric):
    """What the metrics of this file share. The ball of a vector reaches to its k-th nearest neighbor on its own side."""

    k: int

    def __post_init__(self) -> None:
        require_ranges(self, {"k": Range(1, 10**6)})

    @property
    def requirements(self) -> Requirements:
        return Requirements(sample=True)

    def check(self, num_images: int, reference: Reference) -> None:
        num_real = len(sample_of(reference, self.kind))
        if min(num_images, num_real) <= self.k:
            raise MismatchError(
                f"{self.kind} with k={self.k} needs more than {self.k} images on each side and has {num_images} and {num_real}"
            )

    def convention(self, fake: FeatureStatistics, reference: Reference) -> dict[str, object]:
        return {"k": self.k, **sample_sizes(fake, reference)}

    def samples(self, fake: FeatureStatistics, reference: Reference) -> tuple[Features, OtherFeatures]:
        """The feature samples of the generated images and of the reference."""
        assert fake.sample is not None, "collected because of the requirements"
        return fake.sample.features, sample_of(reference, self.kind)


@dataclass(frozen=True)
class PrecisionRecall(NearestNeighborMetric):
    """Precision: share of fake vectors inside balls of real ones. Recall: share of real vectors inside balls of fake ones."""

    k: int = 3

    kind = "pr"
    better = {"_precision": "higher", "_recall": "higher"}

    def __call__(self, fake: FeatureStatistics, reference: Reference) -> dict[str, float]:
        made, real = self.samples(fake, reference)
        return {"_precision": share_in_balls(made, real, self.k), "_recall": share_in_balls(real, made, self.k)}


@dataclass(frozen=True)
class DensityCoverage(NearestNeighborMetric):
    """Density: mean number of real balls around a fake vector, divided by k. Coverage: share of real balls with a fake."""

    k: int = 5

    kind = "dc"
    better = {"_density": "higher", "_coverage": "higher"}

    def __call__(self, fake: FeatureStatistics, reference: Reference) -> dict[str, float]:
        made, real = self.samples(fake, reference)
        radii = squared_radii(real, self.k)
        containing = sum(int((block <= radii).sum()) for block in _squared_distances(made, real))
        nearest = torch.stack([block.amin(dim=0) for block in _squared_distances(made, real)]).amin(dim=0)
        return {"_density": containing / (self.k * len(made)), "_coverage": float((nearest <= radii).double().mean())}


@dataclass(frozen=True)
class Neighbors(NearestNeighborMetric):
    """Recall, precision, coverage (all with one k) and the mean distance of a fake vector to its nearest real one, in one pass.

    A distance far below that of other real images means copies.
    """

    k: int = 3

    kind = "nn"
    better = {"_recall": "higher", "_precision": "higher", "_coverage": "higher"}

    def __call__(self, fake: FeatureStatistics, reference: Reference) -> dict[str, float]:
        made, real = self.samples(fake, reference)
        made_radii, real_radii = squared_radii(made, self.k), squared_radii(real, self.k)
        recalled = torch.zeros(len(real), dtype=torch.bool)
        nearest_fake = torch.full([len(real)], torch.inf, dtype=torch.float64)
        nearest_real, precise, first = [], 0, 0
        for block in _squared_distances(made, real):
            recalled |= (block <= made_radii[first : first + len(block), None]).any(dim=0)
            precise += int((block <= real_radii).any(dim=1).sum())
            nearest_fake = torch.minimum(nearest_fake, block.amin(dim=0))
            nearest_real.append(block.amin(dim=1))
            first += len(block)
        covered = nearest_fake <= real_radii
        shares = {"_recall": float(recalled.double().mean()), "_precision": precise / len(made)}
        distance = float(torch.cat(nearest_real).sqrt().mean())
        return {**shares, "_coverage": float(covered.double().mean()), "_distance": distance}


def share_in_balls(a: Features, b: OtherFeatures, k: int) -> float:
    """Share of the vectors a that lie in the k-nearest-neighbor ball of at least one vector of b."""
    radii = squared_radii(b, k)
    return sum(int((block <= radii).any(dim=1).sum()) for block in _squared_distances(a, b)) / len(a)


def squared_radii(x: Features, k: int) -> Float64[Tensor, " m"]:
    """Squared distance of each vector to its k-th nearest other vector."""
    radii, first = [], 0
    for block in _squared_distances(x, x):
        rows = torch.arange(len(block))
        block[rows, first + rows] = torch.inf  # a vector is not its own neighbor
        radii.append(block.kthvalue(k, dim=1).values)
        first += len(block)
    return torch.cat(radii)


def _squared_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared distances [rows, len(b)] of consecutive rows of a, so that memory is linear in the number of vectors."""
    center = b.to(torch.float64).mean(dim=0)  # distances do not change, and products of large means cost digits
    a, b = a.to(torch.float64) - center, b.to(torch.float64) - center
    norms = b.square().sum(dim=1)
    for part in a.split(ROWS):
        yield (part.square().sum(dim=1)[:, None] + norms - 2 * part @ b.T).clamp_(min=0)
