"""The distribution of class labels in training, evaluation and samples of a teacher."""

import math

import torch

from gan_refine.config import UNIFORM
from gan_refine.errors import OptionError
from gan_refine.interfaces import ImageSpec, Labels

Frequencies = tuple[float, ...]  # of the classes, summing to 1


def draw_labels(n: int, classes: int, rng: torch.Generator, frequencies: Frequencies | None = None) -> Labels:
    """Random one-hot labels [n, classes], uniform if `frequencies` is None; [n, 0] without classes. All on the device of `rng`."""
    labels = torch.zeros([n, classes], device=rng.device)
    if not classes:
        return labels
    if frequencies is None:
        drawn = torch.randint(classes, [n], generator=rng, device=rng.device)
    else:
        assert len(frequencies) == classes, "checked by parse_frequencies"
        weights = torch.tensor(frequencies, dtype=torch.float64).to(rng.device, non_blocking=True)
        drawn = torch.multinomial(weights, n, replacement=True, generator=rng)
    labels[torch.arange(n, device=rng.device), drawn] = 1
    return labels


def parse_frequencies(text: str, spec: ImageSpec) -> Frequencies | None:
    """The frequencies of the --labels text: `uniform`, or a non-negative number for each class of `spec`, as 0.1,0.2,...

    The numbers need not sum to 1. None means uniform, which equal numbers are too. Raises OptionError if the text is
    malformed or does not fit the number of classes.
    """
    if text == UNIFORM:
        return None
    if not spec.num_classes:
        raise OptionError(
            f"--labels={_short(text)} needs a conditional generator, but this one makes {spec} images without classes; leave it out"
        )
    numbers = [_number(entry, text) for entry in text.split(",")]
    if len(numbers) != spec.num_classes:
        raise OptionError(
            f"--labels={_short(text)} has {len(numbers)} frequencies, but the generator makes {spec}; give one for each class"
        )
    total = sum(numbers)
    if not 0 < total < math.inf:
        raise OptionError(f"--labels={_short(text)} sums to {total:g}; give at least one class a frequency above 0")
    if len(set(numbers)) == 1:
        return None
    return tuple(number / total for number in numbers)


def _number(entry: str, text: str) -> float:
    try:
        value = float(entry)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise OptionError(
            f"--labels={_short(text)} is not allowed at {entry!r}; write uniform, numbers of at least 0 as 0.1,0.2,... "
            "or the name of a .json file with a list of them"
        )
    return value


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
