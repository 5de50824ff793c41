"""The Frechet distance between two Gaussians (squared 2-Wasserstein distance), as used by arXiv:1706.08500."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from gan_refine.config import require
from gan_refine.errors import MismatchError
from gan_refine.metrics.metric import Metric
from gan_refine.metrics.moments import Covariance, Mean, Moments
from gan_refine.metrics.references import Reference
from gan_refine.metrics.statistics import NUM_BLOCKS, FeatureStatistics, Requirements


@dataclass(frozen=True)
class FrechetDistance(Metric):
    """The Frechet distance between the Gaussians of two feature distributions; in Inception features FID.

    Both covariances divide by N - ddof; None means the ddof of the reference, or 1 if its file records none. `infinity`
    adds the extrapolation to infinitely many images (arXiv:1911.07023).
    """

    ddof: int | None = None
    infinity: bool = False

    kind = "fd"
    better = {"": "lower", "_infinity": "lower"}

    def __post_init__(self) -> None:
        require("ddof", self.ddof, self.ddof in (None, 0, 1), "0 or 1")

    @property
    def requirements(self) -> Requirements:
        return Requirements(blocks=self.infinity)

    def least_images(self, num_features: int) -> int:
        return 2 * num_features  # of half as many images the covariance is singular

    def check(self, num_images: int, reference: Reference) -> None:
        if self.infinity and num_images // NUM_BLOCKS <= len(reference.mean):
            raise MismatchError(
                f"infinity needs more than {NUM_BLOCKS * len(reference.mean)} images for {len(reference.mean)} features: "
                f"the distance of fewer does not fall as 1 / N, and {num_images} are asked for"
            )

    def __call__(self, fake: FeatureStatistics, reference: Reference) -> dict[str, float]:
        values = {"": self.distance(fake.moments, reference)}
        if self.infinity:
            values["_infinity"] = self._extrapolate(fake.blocks, values[""], reference)
        return values

    def left_out(self, fake: FeatureStatistics, reference: Reference) -> tuple[float, ...]:
        """The distances of the images without each of the blocks in turn; empty if no blocks were collected."""
        blocks = fake.blocks
        return tuple(self.distance(_merged(*blocks[:n], *blocks[n + 1 :]), reference) for n in range(len(blocks)))

    def distance(self, fake: Moments, reference: Reference) -> float:
        """The distance between the moments of generated images and a reference. Raises MismatchError for fewer than 2 images."""
        ddof = self._ddof(reference)
        if fake.count <= max(ddof, 1):
            raise MismatchError(f"a Frechet distance needs at least 2 images, got {fake.count}")
        real = reference.covariance_with(ddof)
        return frechet_distance(fake.mean.cpu(), fake.covariance(ddof).cpu(), reference.mean, real)

    def convention(self, fake: FeatureStatistics, reference: Reference) -> dict[str, object]:
        """The ddof of the generated covariance and of the reference's."""
        ddof, recorded = self._ddof(reference), reference.ddof
        scaled = ddof if reference.can_rescale else recorded
        return {"ddof": ddof, "reference_ddof": "not recorded" if scaled is None else scaled}

    def _ddof(self, reference: Reference) -> int:
        if self.ddof is not None:
            return self.ddof
        return 1 if reference.ddof is None else reference.ddof

    def _extrapolate(self, blocks: list[Moments], whole: float, reference: Reference) -> float:
        """a of the line a + b / n through the distances of n = N/8, N/4, N/2 (means over disjoint parts) and N images."""
        total = sum(block.count for block in blocks)
        shares, values = [1.0], [whole]
        while len(blocks) > 1:
            shares.append(float(len(blocks)))
            values.append(float(np.mean([self.distance(block, reference) for block in blocks])))
            blocks = [_merged(*pair) for pair in zip(blocks[::2], blocks[1::2], strict=True)]
        return float(np.polyfit(np.array(shares) / total, values, deg=1)[1])


def _merged(*parts: Moments) -> Moments:
    whole = Moments(len(parts[0].mean), parts[0].mean.device)
    for part in parts:
        whole.merge(part)
    return whole


def frechet_distance(mean_a: Mean, covariance_a: Covariance, mean_b: Mean, covariance_b: Covariance) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), eq. 6 of arXiv:1706.08500, in squared units of the features; at least 0.

    With C_a = A A^T and C_b = B B^T the trace of the root is the sum of the singular values of A^T B. This is exact for
    covariances of any rank and needs no square root of a matrix that is not symmetric.
    """
    singular = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b))
    mean_term = (mean_a - mean_b).square().sum()
    covariance_term = covariance_a.trace() + covariance_b.trace() - 2 * singular.sum()
    return max(float(mean_term + covariance_term), 0.0)


def _factor(covariance: Covariance) -> Float64[Tensor, "d r"]:
    """A with A A^T = C: the Cholesky factor if C clearly has full rank, else a column for each eigenvalue above rounding."""
    symmetric = (covariance + covariance.T) / 2
    rounding = len(symmetric) * torch.finfo(symmetric.dtype).eps
    lower, failed = torch.linalg.cholesky_ex(symmetric)
    pivots = lower.diagonal().square()
    if not failed and pivots.min() > 1000 * rounding * pivots.max():
        return lower
    values, vectors = torch.linalg.eigh(symmetric)
    # An eigenvalue that should be 0 comes out near +-eps; its root, near 1e-8, would be noise in every column.
    kept = values > values.abs().max() * rounding
    return vectors[:, kept] * values[kept].sqrt()
