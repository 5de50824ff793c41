"""Which snapshot a run keeps as its best: the last, unless an earlier one is clearly nearer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLEARLY = 2.0  # standard errors of a difference


@dataclass(frozen=True)
class Ranked:
    """A distance that snapshots are ranked by, and what it is without each of the parts of the images in turn, if that is known."""

    value: float
    left_out: tuple[float, ...] = ()


def standard_error(a: Ranked, b: Ranked) -> float:
    """Of the difference of two distances on the same latents: the jackknife's over the parts. 0 if the parts are not known."""
    if not a.left_out or len(a.left_out) != len(b.left_out):
        return 0.0
    differences = np.subtract(a.left_out, b.left_out)
    return float(np.sqrt((len(differences) - 1) * differences.var()))


def choose(original: Ranked, snapshots: Sequence[Ranked]) -> int | None:
    """The index of the last snapshot that is below the original and not clearly above the lowest before it; None without one."""
    chosen, lowest = None, original
    for number, each in enumerate(snapshots):
        margin = CLEARLY * standard_error(each, lowest)
        if each.value < original.value and each.value - lowest.value <= margin:
            chosen = number
        if each.value < lowest.value:
            lowest = each
    return chosen
