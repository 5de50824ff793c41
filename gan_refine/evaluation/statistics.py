"""Uncertainty of metrics: standard errors over sets of latents, and paired comparisons on the same sets."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # scipy.stats has the same, but takes seconds to import

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
        error = self.difference.standard_error
        if error is None:
            return None
        return float(stdtrit(len(self.before) - 1, (1 + CONFIDENCE) / 2)) * error

    @property
    def significant(self) -> bool | None:
        """The two-sided paired t test at 5 %: whether the interval excludes 0. None for one set of latents."""
        margin = self.margin
        return None if margin is None else abs(self.difference.mean) > margin

    def describe(self, higher_is_better: bool = False) -> str:
        """The change with its confidence interval, and whether it is significant, in words."""
        change, margin = self.difference.mean, self.margin
        if margin is None:
            return f"changed by {change:+.3f}; one set of latents gives no confidence interval (use --fid-seeds=5)"
        interval = f"{change:+.3f}, 95 % confidence interval +-{margin:.3f} over {len(self.before)} sets of latents"
        if not self.significant:
            return f"no significant change: {interval}"
        return f"significantly {'better' if (change > 0) == higher_is_better else 'worse'}: {interval}"

    def record(self) -> dict[str, object]:
        """The comparison as JSON values, for summary.json."""
        before, after, change = estimate(self.before), estimate(self.after), self.difference
        return {
            "before": {"mean": before.mean, "standard_error": before.standard_error, "values": self.before},
            "after": {"mean": after.mean, "standard_error": after.standard_error, "values": self.after},
            "difference": {"mean": change.mean, "standard_error": change.standard_error, "clear": self.significant},
        }


def gap_closed(before: float, after: float, teacher: float) -> float | None:
    """(before - after) / (before - teacher) of a distance; None if the teacher is not better than the GAN was before."""
    return (before - after) / (before - teacher) if before > teacher else None
