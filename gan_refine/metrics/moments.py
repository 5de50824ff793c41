"""Mean and covariance of a stream of feature vectors, in float64 and in memory independent of the number of vectors."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from gan_refine.foundation import distributed

Features = Float[Tensor, "n d"]
Mean = Float64[Tensor, " d"]
Covariance = Float64[Tensor, "d d"]


class Moments:
    """Running count, mean [d] and scatter [d, d], the sum of outer products of deviations from the mean.

    The result does not depend on the sizes of the batches, up to float64 rounding.
    """

    def __init__(self, num_features: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        # float64: sums over 50,000 features lose digits in float32
        self.mean: Mean = torch.zeros(num_features, dtype=torch.float64, device=device)
        self.scatter: Covariance = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, features: Features) -> None:
        """Adds a batch [n, d]; n = 0 changes nothing."""
        if len(features) == 0:
            return
        exact = features.to(self.mean.device, torch.float64)
        mean = exact.mean(dim=0)
        deviation = exact - mean
        self._combine(len(features), mean, deviation.T @ deviation)

    def merge(self, other: "Moments") -> None:
        """Adds the vectors of another stream over the same features."""
        if other.count:
            self._combine(other.count, other.mean.to(self.mean.device), other.scatter.to(self.mean.device))

    def across_processes(self) -> "Moments":
        """The moments of the vectors of all processes together. Every process must call it, and each gets the whole."""
        whole = Moments(len(self.mean), self.mean.device)
        count = distributed.sum_across(torch.tensor(self.count, dtype=torch.int64, device=self.mean.device))
        whole.count = int(count)
        if whole.count:
            whole.mean = distributed.sum_across(self.mean * self.count) / whole.count
            shift = self.mean - whole.mean
            whole.scatter = distributed.sum_across(self.scatter + torch.outer(shift, shift) * self.count)
        return whole

    def _combine(self, count: int, mean: Mean, scatter: Covariance) -> None:
        # Pairwise update of Chan, Golub and LeVeque (1979): no difference of large sums, so a large mean is harmless.
        total = self.count + count
        shift = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def covariance(self, ddof: int = 1) -> Covariance:
        """Scatter / (count - ddof), [d, d]; ddof 1 is the unbiased estimate. Raises ValueError for `ddof` vectors or fewer."""
        if self.count <= ddof:
            raise ValueError(f"a covariance with ddof={ddof} needs more than {ddof} vectors, got {self.count}")
        return self.scatter / (self.count - ddof)
