"""How sure a change is: the same K sets of latents before and after, and the paired difference."""

import math
from dataclasses import dataclass

import numpy as np

# Two-sided 95 % quantiles of Student's t for 1 to 10 degrees of freedom; beyond, an expansion in 1 / freedom does.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Estimate:
    """Mean of some values and its standard error; None of a single value."""

    mean: float
    standard_error: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" +- {self.standard_error:.3f}")


def estimate(values: list[float]) -> Estimate:
    """Of at least one value; the standard error is the deviation (over K - 1) divided by the root of K."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), error)


@dataclass(frozen=True)
class Paired:
    """Values of one figure before and after, set of latents by set of latents."""

    before: list[float]
    after: list[float]

    def __post_init__(self) -> None:
        assert len(self.before) == len(self.after) > 0, "one value each for every set of latents"

    @property
    def difference(self) -> Estimate:
        """Of after - before."""
        return estimate([after - before for before, after in zip(self.before, self.after, strict=True)])

    @property
    def clear(self) -> bool | None:
        """Whether the difference is beyond its 95 % interval around zero; None from a single set of latents."""
        difference = self.difference
        if difference.standard_error is None:
            return None
        return abs(difference.mean) > t_quantile(len(self.before) - 1) * difference.standard_error

    def words(self, higher_is_better: bool = False) -> str:
        """The change, its noise, and which of them is larger."""
        change = self.difference
        if self.clear is None:
            return (
                f"changed by {change.mean:+.3f}; the noise is not known from one set of latents (--fid-seeds=5 tells)"
            )
        gained = (change.mean > 0) == higher_is_better
        reach = t_quantile(len(self.before) - 1) * (change.standard_error or 0.0)
        margin = f"{change.mean:+.3f}, 95 % interval +-{reach:.3f} over {len(self.before)} sets of latents"
        if not self.clear:
            return f"no change beyond the noise: {margin}"
        return f"{'better' if gained else 'worse'} by more than the noise: {margin}"

    def record(self) -> dict[str, object]:
        """For JSON."""
        before, after, change = estimate(self.before), estimate(self.after), self.difference
        return {
            "before": {"mean": before.mean, "standard_error": before.standard_error, "values": self.before},
            "after": {"mean": after.mean, "standard_error": after.standard_error, "values": self.after},
            "difference": {"mean": change.mean, "standard_error": change.standard_error, "clear": self.clear},
        }


def gap_closed(before: float, after: float, teacher: float) -> float | None:
    """(before - after) / (before - teacher) of a distance; None where the teacher is no better than the GAN was."""
    return (before - after) / (before - teacher) if before > teacher else None


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = 1.959964
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + (z**3 + z) / (4 * freedom) + second + third
