"""The Frechet distance between two Gaussians (squared 2-Wasserstein distance), as used by arXiv:1706.08500."""

import torch
from jaxtyping import Float64
from torch import Tensor

from gan_refine.metrics.moments import Covariance, Mean


def frechet_distance(mean_a: Mean, covariance_a: Covariance, mean_b: Mean, covariance_b: Covariance) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in squared units of the features; at least 0.

    With C_a = A A^T and C_b = B B^T the last trace is the sum of the singular values of A^T B, so it is right for
    covariances of any rank and needs no square root of a matrix that is not symmetric.
    """
    singular = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b))
    mean_term = (mean_a - mean_b).square().sum()
    covariance_term = covariance_a.trace() + covariance_b.trace() - 2 * singular.sum()
    return max(float(mean_term + covariance_term), 0.0)


def _factor(covariance: Covariance) -> Float64[Tensor, "d r"]:
    """A with A A^T = C, one column for each of the r eigenvalues above rounding."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    # An eigenvalue that should be 0 comes out near +-eps; its root, near 1e-8, would be noise in every column.
    threshold = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    kept = values > threshold
    return vectors[:, kept] * values[kept].sqrt()
