"""Uncertainty of metrics: standard errors over sets of latents, and paired comparisons on the same sets."""

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean of some values and its standard error, None for a single value."""

    mean: float
    standard_error: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" +- {self.standard_error:.3f}")


def estimate(values: list[float]) -> Estimate:
    """Mean and standard error (standard deviation over K - 1, divided by the root of K) of K >= 1 values."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), error)


@dataclass(frozen=True)
class Interval:
    """The mean of `count` shares and half the width of its 95 % confidence interval (Student's t), None for a single value."""

    mean: float
    margin: float | None
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval is above or below 0, else 0."""
        return 0 if self.margin is None or abs(self.mean) <= self.margin else int(math.copysign(1, self.mean))

    def __str__(self) -> str:
        return f"{self.mean:.1%}" + ("" if self.margin is None else f" +- {self.margin:.1%}")


def interval(values: list[float]) -> Interval:
    """The 95 % confidence interval of the mean of K >= 1 values."""
    found = estimate(values)
    return Interval(found.mean, _margin(found.standard_error, len(values)), len(values))


def _margin(standard_error: float | None, count: int) -> float | None:
    from scipy.special import stdtrit  # here: scipy is slow to import, scipy.stats even more

    return None if standard_error is None else float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * standard_error


@dataclass(frozen=True)
class PairedComparison:
    """Values of one metric before and after, one of each for every set of latents."""

    before: list[float]
    after: list[float]

    def __post_init__(self) -> None:
        assert len(self.before) == len(self.after) > 0, "one value each for every set of latents"

    @property
    def difference(self) -> Estimate:
        """after - before."""
        return estimate([after - before for before, after in zip(self.before, self.after, strict=True)])

    @property
    def margin(self) -> float | None:
        """Half the width of the 95 % confidence interval of the mean difference (Student's t); None for one set of latents."""
        return _margin(self.difference.standard_error, len(self.before))

    @property
    def significant(self) -> bool | None:
        """The two-sided paired t test at 5 %: whether the interval excludes 0. None for one set of latents."""
        margin = self.margin
        return None if margin is None else abs(self.difference.mean) > margin

    def describe(self, metric: str, higher_is_better: bool = False) -> str:
        """The change of the metric with its confidence interval, and whether it is significant: a sentence without subject."""
        change, margin = f"changes {metric} by {self.difference.mean:+.3f}", self.margin
        if margin is None:
            return f"{change}, which one set of latents gives no confidence interval of (use --fid-seeds=5)"
        interval = f"(95 % confidence interval +-{margin:.3f} over {len(self.before)} sets of latents)"
        if not self.significant:
            return f"{change}, which is not significant {interval}"
        told = "better" if (self.difference.mean > 0) == higher_is_better else "worse"
        return f"{change}, which is significantly {told} {interval}"


def gap_closed(before: float, after: float, floor: float) -> float | None:
    """(before - after) / (before - floor) of a distance; None if the floor is not below the distance before."""
    return (before - after) / (before - floor) if before > floor else None
