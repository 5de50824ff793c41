"""Options as frozen dataclasses, and specs of the form "name,key=value,key=value" checked against them."""

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gan_refine.errors import OptionError, ValueNotAllowedError

D = TypeVar("D")

# Defaults of options, here since --help imports no module that needs torch.
UNIFORM = "uniform"  # frequencies of classes
DEFAULT_STEPS = 18  # of unipc; within 0.2 % of the converged distance to the data on fashion16 (docs/metrics.md)
NUM_IMAGES = 2_000  # of each side: of a generator, of the reference and of the floor
LEARNING_SAMPLES = 16_384  # of the teacher, that an objective learns from in a run of minutes
MOST_LEARNING_SAMPLES = 32_768  # in a long one
LEAST_LEARNING_SAMPLES = 2048  # in one of a few steps; moments of hundreds of features need as many


@dataclass(frozen=True)
class Range:
    """The allowed values of a number: from `low`, or above it if `above`, to `high`; 0 too if it means off."""

    low: float
    high: float
    above: bool = False
    or_0: bool = False

    def holds(self, value: float) -> bool:
        """False for NaN too."""
        inside = self.low < value <= self.high if self.above else self.low <= value <= self.high
        return inside or (self.or_0 and value == 0)

    def __str__(self) -> str:
        start = f"above {self.low:.8g}" if self.above else f"from {self.low:.8g}"
        return f"{'0, or ' if self.or_0 else ''}a number {start} to {self.high:.8g}"


# The limits are far beyond sense: they keep mistakes from filling memory and disks, or from failing much later.
MOST_IMAGES = 10**9
LARGEST_OPTION = 1e12  # of a spec, such as that of --objective
IMAGES = Range(2, MOST_IMAGES)  # of a measurement
SEED = Range(0, 2**32 - 1)  # numpy's
SETS = Range(1, 10_000)  # of latents
STEPS = Range(2, 10_000)  # of a sampler
KIMG = Range(0, MOST_IMAGES / 1000)
RATE = Range(0, 100)
WHITENING = Range(0, 0.5)  # the power; 0.5 makes all directions alike
POSITIVE = Range(1, MOST_IMAGES)
RANGES = {  # of RefineOptions
    **dict.fromkeys(("total_images", "ema_halflife_images", "tick_images", "max_skips"), POSITIVE),
    **{name: Range(1, 2**20) for name in ("batch", "batch_gpu")},
    "warmup_images": Range(0, MOST_IMAGES),
    "glr": RATE,
    "score_lr": RATE,
    "beta1": Range(0, 1 - 1e-6),
    "beta2": Range(0, 1 - 1e-6),
    "ema_rampup": Range(0, 1e6),
    "lr_rampup": Range(0, 1),
    "lr_decay": Range(0, 1),
    "l2_images": Range(0, 1e12),
    "clip_grad": Range(0, 1e12),
    "seed": SEED,
}


@dataclass(frozen=True)
class RefineOptions:
    """What `refine` needs to know. Counts are in images shown to the generator; learning rates are Adam's."""

    total_images: int = 32_768
    batch: int = 32
    batch_gpu: int = 32  # images in memory at a time; gradients accumulate up to `batch`
    warmup_images: int = 3_072  # the auxiliary networks are trained alone for so many images, at the start
    glr: float | None = None  # None: the objective's default, lower for some generators
    train: str = "auto"  # trained parts, each with a multiple of `glr`: synthesis,affine:0.1; or all, or auto
    score_lr: float = 3e-4
    beta1: float = 0.0
    beta2: float = 0.99
    ema_halflife_images: int = 5_000
    ema_rampup: float = 0.2  # the half-life is at most this share of the images seen
    lr_rampup: float = 0.05  # share of the run, at its start, over which both learning rates rise linearly
    lr_decay: float = 0.6  # share of the run, at its end, over which they fall to zero
    l2_images: float = 0.0  # weight of the squared distance of the images to the original's at the same latents
    clip_grad: float = 0.0  # norm to which a larger gradient is scaled down; 0 = no clipping
    max_skips: int = 20  # steps in a row whose gradient is not finite, before the run stops with a diagnosis
    tick_images: int = 16_384
    seed: int = 0

    def __post_init__(self) -> None:
        require_ranges(self, RANGES)
        parse_parts(self.train)
        if self.batch % self.batch_gpu:
            raise OptionError(
                f"--batch={self.batch} is not a multiple of --batch-gpu={self.batch_gpu}; choose a --batch-gpu that divides --batch"
            )


def require(name: str, value: object, holds: bool, allowed: str) -> None:
    """Raises OptionError unless the condition holds."""
    if not holds:
        raise ValueNotAllowedError(name, shortened(str(value)), allowed)


def require_ranges(options: object, ranges: Mapping[str, Range]) -> None:
    """Raises OptionError for the first field of the dataclass that is outside its range; None is in it where it is the default."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}  # type: ignore[arg-type]
    for name, allowed in ranges.items():
        value = getattr(options, name)
        require(name, value, defaults[name] is None if value is None else allowed.holds(value), str(allowed))


def parse_path_spec(spec: str) -> tuple[str, dict[str, str]]:
    """As parse_spec where the name, or the value of the option `path`, may be a path with commas in it.

    The longest start of the text that exists is the name, and an existing path the value. Raises OptionError.
    """
    pieces = spec.split(",")
    ends = [end for end in range(len(pieces), 1, -1) if os.path.exists(",".join(pieces[:end]))]
    name, rest = ",".join(pieces[: ends[0]]) if ends else pieces[0], pieces[ends[0] if ends else 1 :]
    options: list[str] = []
    while rest:
        piece = rest.pop(0)
        if piece.startswith("path="):
            value = [piece.removeprefix("path="), *rest]
            length = next((n for n in range(len(value), 1, -1) if os.path.exists(",".join(value[:n]))), 1)
            piece, rest = "path=" + ",".join(value[:length]), value[length:]
        options.append(piece)
    return name, _parse_pairs(options, spec)


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """'name,key=value' -> ('name', {'key': 'value'}). Raises OptionError for anything else."""
    name, *pairs = spec.split(",")
    return name, _parse_pairs(pairs, spec)


def _parse_pairs(pairs: list[str], spec: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key or key in options:
            got = f"got {shortened(pair)!r} in {shortened(spec)!r}"
            raise OptionError(f"{got}; options are written name,key=value,key=value, each key once")
        options[key] = value
    return options


def shortened(text: str) -> str:
    """At most 80 characters of it, for messages."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_spec(name: str, options: object) -> str:
    """The inverse of `parse_spec` and `build_options`: `name,key=value,...` with every field of the dataclass `options`."""
    values = dataclasses.asdict(options)  # type: ignore[call-overload]
    texts = {
        key: str(value).lower() if value is None or isinstance(value, bool) else str(value)
        for key, value in values.items()
    }
    return ",".join([name, *(f"{key}={text}" for key, text in texts.items())])


def parse_parts(text: str) -> dict[str, float]:
    """'synthesis,affine:0.1' -> {'synthesis': 1.0, 'affine': 0.1}: names with multiples of a rate. Raises OptionError."""
    parts: dict[str, float] = {}
    for entry in text.split(","):
        name, colon, multiple = entry.strip().partition(":")
        try:
            value = float(multiple) if colon else 1.0
        except ValueError:
            value = 0.0
        if not name or name in parts or not 0 < value < math.inf:
            raise OptionError(
                f"--train={text} is not allowed at {entry!r}; write parts like synthesis,affine:0.1, each once, "
                "each with a positive multiple of the learning rate or none"
            )
        parts[name] = value
    return parts


def choose(kind: str, name: str, table: Mapping[str, D]) -> D:
    """table[name], or an OptionError that lists the names."""
    if name not in table:
        raise OptionError(f"unknown {kind} {shortened(name)!r}; choose one of {', '.join(sorted(table))}")
    return table[name]


def build_options(cls: type[D], options: dict[str, str], context: str) -> D:
    """The dataclass `cls` from texts, each converted to its field's type; they were typed after `context`: --objective=sid.

    Unknown keys and bad values raise OptionError.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise OptionError(f"unknown option {shortened(key)!r} of {context}; its options are: {allowed}")
    try:
        return cls(**{key: _convert(text, hints[key], f"{key} of {context}") for key, text in options.items()})
    except ValueNotAllowedError as error:
        given = shortened(options.get(error.name, str(error.value)))
        raise OptionError(f"{context},{error.name}={given} is not allowed; give {error.allowed}") from error


def _convert(text: str, hint: object, what: str) -> object:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        if text not in options:
            raise OptionError(f"got {shortened(text)!r} for {what}; choose one of {', '.join(map(str, options))}")
        return text
    if isinstance(hint, types.UnionType) and type(None) in options:
        if text.lower() == "none":
            return None
        hint = next(option for option in options if option is not type(None))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise OptionError(f"got {shortened(text)!r} for {what}; write true or false")
        return text.lower() == "true"
    if hint is str:
        return text
    if hint in (int, float):
        try:
            value = hint(text)  # type: ignore[operator]
        except ValueError as error:
            raise OptionError(
                f"got {shortened(text)!r} for {what}; write {'a whole' if hint is int else 'a'} number"
            ) from error
        if not abs(value) <= LARGEST_OPTION:
            raise OptionError(
                f"got {shortened(text)!r} for {what}; write a finite number of at most {LARGEST_OPTION:g}"
            )
        return value
    raise TypeError(f"options of type {hint} cannot be given as text")


def to_json(options: object) -> str:
    """A dataclass as indented JSON; paths become strings."""
    record = dataclasses.asdict(options)  # type: ignore[call-overload]
    return json.dumps(record, indent=2, default=lambda value: str(value) if isinstance(value, Path) else value)
