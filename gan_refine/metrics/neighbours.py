"""Metrics of nearest neighbours: precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.config import require
from gan_refine.errors import MismatchError
from gan_refine.metrics.references import Reference, sample_of, sample_sizes
from gan_refine.metrics.statistics import Needs, Statistics

ROWS = 1000  # of a block of distances
Vectors = Float[Tensor, "m d"]
Others = Float[Tensor, "n d"]


@dataclass(frozen=True)
class PrecisionRecall:
    """Share of fakes inside the reference's k-nearest-neighbour balls, and of the reference inside those of the fakes."""

    k: int = 3

    kind = "pr"
    higher_is_better = True
    needs = Needs(sample=True)

    def __post_init__(self) -> None:
        require("k", self.k, self.k >= 1, "at least 1")

    def check(self, num_images: int, reference: Reference) -> None:
        """Raises MismatchError where a vector has fewer than k others."""
        _check_sizes(num_images, len(sample_of(reference, self.kind)), self.k, self.kind)

    def __call__(self, fake: Statistics, reference: Reference) -> dict[str, float]:
        made, real = _both(fake, reference, self.kind)
        return {"_precision": inside(made, real, self.k), "_recall": inside(real, made, self.k)}

    def facts(self, fake: Statistics, reference: Reference) -> dict[str, object]:
        return {"k": self.k, **sample_sizes(fake, reference)}


@dataclass(frozen=True)
class Recall(PrecisionRecall):
    """The same with recall as its main figure."""

    kind = "recall"

    def __call__(self, fake: Statistics, reference: Reference) -> dict[str, float]:
        both = super().__call__(fake, reference)
        return {"": both["_recall"], "_precision": both["_precision"]}

    def of_samples(self, samples: Reference, reference: Reference) -> float:
        """The recall of images that are kept as a reference themselves."""
        return inside(sample_of(reference, self.kind), sample_of(samples, self.kind), self.k)


@dataclass(frozen=True)
class DensityCoverage:
    """Mean number of reference balls around a fake, over k; share of reference balls that hold a fake."""

    k: int = 5

    kind = "dc"
    higher_is_better = True
    needs = Needs(sample=True)

    def __post_init__(self) -> None:
        require("k", self.k, self.k >= 1, "at least 1")

    def check(self, num_images: int, reference: Reference) -> None:
        """Raises MismatchError where a vector has fewer than k others."""
        _check_sizes(num_images, len(sample_of(reference, self.kind)), self.k, self.kind)

    def __call__(self, fake: Statistics, reference: Reference) -> dict[str, float]:
        made, real = _both(fake, reference, self.kind)
        radii = squared_radii(real, self.k)
        balls = sum(int((block <= radii).sum()) for block in _blocks(made, real))
        nearest = torch.stack([block.amin(dim=0) for block in _blocks(made, real)]).amin(dim=0)
        return {"_density": balls / (self.k * len(made)), "_coverage": float((nearest <= radii).double().mean())}

    def facts(self, fake: Statistics, reference: Reference) -> dict[str, object]:
        return {"k": self.k, **sample_sizes(fake, reference)}


def inside(a: Vectors, b: Others, k: int) -> float:
    """Share of the vectors a that lie in the k-nearest-neighbour ball of some b."""
    radii = squared_radii(b, k)
    return sum(int((block <= radii).any(dim=1).sum()) for block in _blocks(a, b)) / len(a)


def squared_radii(x: Vectors, k: int) -> Float64[Tensor, " m"]:
    """Squared distance of each vector to its k-th nearest other one."""
    radii, first = [], 0
    for block in _blocks(x, x):
        rows = torch.arange(len(block))
        block[rows, first + rows] = torch.inf  # a vector is not its own neighbour
        radii.append(block.kthvalue(k, dim=1).values)
        first += len(block)
    return torch.cat(radii)


def _blocks(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared distances [rows, len(b)] of consecutive rows of a, so that memory is linear in the number of vectors."""
    centre = b.to(torch.float64).mean(dim=0)  # distances do not change, and products of large means cost digits
    a, b = a.to(torch.float64) - centre, b.to(torch.float64) - centre
    norms = b.square().sum(dim=1)
    for part in a.split(ROWS):
        yield (part.square().sum(dim=1)[:, None] + norms - 2 * part @ b.T).clamp_(min=0)


def _both(fake: Statistics, reference: Reference, kind: str) -> tuple[Tensor, Tensor]:
    assert fake.sample is not None, "asked for by needs"
    return fake.sample.features, sample_of(reference, kind)


def _check_sizes(made: int, real: int, k: int, kind: str) -> None:
    if min(made, real) <= k:
        raise MismatchError(f"{kind} with k={k} needs more than {k} images on each side and has {made} and {real}")
