"""The contract of a metric, and the record of what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from gan_refine.metrics.references import Reference
from gan_refine.metrics.statistics import FeatureStatistics, Requirements

Direction = Literal["higher", "lower"]


class Metric(ABC):
    """A function of the statistics of generated images and a reference. Subclasses are frozen dataclasses of options.

    The reference is None only for a metric whose `requirements.reference` is False.
    """

    kind: ClassVar[str]  # the start of its name: fd, kd, is, pr, dc
    better: ClassVar[Mapping[str, Direction]]  # of each value by its suffix; a value without a direction is left out

    @property
    def is_distance(self) -> bool:
        """Whether it has a main value of which lower is better, so that snapshots can be ranked by it."""
        return self.better.get("") == "lower"

    def least_images(self, num_features: int) -> int:
        """Below so many images the value tells more of their number than of the images; unlike `check`, it is computed."""
        return 0

    @property
    @abstractmethod
    def requirements(self) -> Requirements:
        """What must be collected of the images."""

    @abstractmethod
    def check(self, num_images: int, reference: Reference) -> None:
        """Raises MismatchError if this metric needs more images than `num_images`, or more than the reference has."""

    @abstractmethod
    def __call__(self, fake: FeatureStatistics, reference: Reference) -> dict[str, float]:
        """{suffix: value}; the main value has the suffix ""."""

    def left_out(self, fake: FeatureStatistics, reference: Reference) -> tuple[float, ...]:
        """The main value without each of the parts of the images in turn, for its uncertainty; empty if it is not known."""
        return ()

    @abstractmethod
    def convention(self, fake: FeatureStatistics, reference: Reference) -> dict[str, object]:
        """The conventions that the values follow, as JSON values: divisors, sample sizes, options."""


@dataclass(frozen=True)
class Result:
    """The values of one metric by their full names, and the conventions that they follow.

    A full name is `metric`, followed by a suffix for a value beside the main one. `kind` is the metric's, `source` the reference's:
    "data" or "teacher". `better` has the direction of each value that has one. `left_out`: the main value without each of the parts
    of the images in turn, if it was asked for and is known.
    """

    metric: str
    kind: str
    source: str
    values: dict[str, float]
    convention: dict[str, object]
    better: dict[str, Direction]
    left_out: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """The main value. Raises KeyError for a metric without one: pr and dc have two values of equal rank."""
        return self.values[self.metric]
