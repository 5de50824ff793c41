"""Options as frozen dataclasses, and specs of the form "name,key=value,key=value" checked against them."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gan_refine.errors import OptionError

D = TypeVar("D")


@dataclass(frozen=True)
class RefineOptions:
    """What `refine` needs to know. Counts are in images shown to the generator; learning rates are Adam's."""

    total_images: int = 49_152
    batch: int = 64
    batch_gpu: int = 64  # images in memory at a time; gradients accumulate up to `batch`
    warmup_images: int = 6_000  # the score model is trained alone for so many images, at the start of each round
    pool_images: int = 8_192  # images per target pool; 0 alternates on fresh batches as in the paper
    pool_epochs: int = 3  # passes over one pool
    pool_euler_steps: int = 3  # Euler steps of each image of a pool, each with one draw of noise
    pool_step_size: float = 5.0  # multiple of the gradient by which an image moves in all, in the first round
    pool_step_size_decay: float = 0.5  # the step size of round r is pool_step_size / r^pool_step_size_decay
    glr: float = 4e-3
    train: str = "all"  # trained parts of the generator, each with a multiple of `glr`: synthesis,affine:0.1
    score_lr: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.999
    ema_halflife_images: int = 500
    ema_rampup: float = 0.2  # the half-life is at most this share of the images seen
    lr_rampup: float = 0.1  # share of the run, at its start, over which both learning rates rise linearly
    lr_decay: float = 0.7  # share of each round (without pools: of the run), at its end, in which they fall to zero
    l2_images: float = 0.0  # weight of the squared distance of the images to the original's at the same latents
    clip_grad: float = 0.0  # norm to which a larger gradient is scaled down; 0 = no clipping
    max_skips: int = 20  # steps in a row whose gradient is not finite, before the run stops with a diagnosis
    tick_images: int = 12_288
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (
            "total_images",
            "batch",
            "batch_gpu",
            "ema_halflife_images",
            "tick_images",
            "max_skips",
            "pool_epochs",
            "pool_euler_steps",
        )
        for name in (*counts, "pool_step_size"):
            require(name, getattr(self, name), getattr(self, name) > 0, "a positive number")
        for name in (
            "glr",
            "score_lr",
            "ema_rampup",
            "warmup_images",
            "pool_images",
            "clip_grad",
            "pool_step_size_decay",
        ):
            require(name, getattr(self, name), getattr(self, name) >= 0, "a number of at least 0")
        require("l2_images", self.l2_images, 0 <= self.l2_images < math.inf, "a number of at least 0")
        for name in ("lr_rampup", "lr_decay"):
            require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "between 0 and 1")
        parse_parts(self.train)
        if self.batch % self.batch_gpu:
            raise OptionError(
                f"--batch={self.batch} is not a multiple of --batch-gpu={self.batch_gpu}; choose a --batch-gpu that divides --batch"
            )


def require(name: str, value: object, holds: bool, allowed: str) -> None:
    """Raises OptionError unless the condition holds."""
    if not holds:
        raise OptionError(f"--{name.replace('_', '-')}={value} is not allowed; give {allowed}")


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """'name,key=value' -> ('name', {'key': 'value'}). Raises OptionError for anything else."""
    name, *pairs = spec.split(",")
    options: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key or key in options:
            raise OptionError(f"got {pair!r} in {spec!r}; options are written name,key=value,key=value, each key once")
        options[key] = value
    return name, options


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
        raise OptionError(f"unknown {kind} {name!r}; choose one of {', '.join(sorted(table))}")
    return table[name]


def build_options(cls: type[D], options: dict[str, str], context: str) -> D:
    """The dataclass `cls` from texts, each converted to its field's type. Unknown keys and bad values raise OptionError."""
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise OptionError(f"unknown option {key!r} of {context}; its options are: {allowed}")
    return cls(**{key: _convert(text, hints[key], f"{key} of {context}") for key, text in options.items()})


def _convert(text: str, hint: object, what: str) -> object:
    options = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        if text not in options:
            raise OptionError(f"got {text!r} for {what}; choose one of {', '.join(map(str, options))}")
        return text
    if isinstance(hint, types.UnionType) and type(None) in options:
        if text.lower() == "none":
            return None
        hint = next(option for option in options if option is not type(None))
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise OptionError(f"got {text!r} for {what}; write true or false")
        return text.lower() == "true"
    if hint is str:
        return text
    if hint in (int, float):
        try:
            return hint(text)  # type: ignore[operator]
        except ValueError as error:
            raise OptionError(f"got {text!r} for {what}; write {'a whole' if hint is int else 'a'} number") from error
    raise TypeError(f"options of type {hint} cannot be given as text")


def to_json(options: object) -> str:
    """A dataclass as indented JSON; paths become strings."""
    record = dataclasses.asdict(options)  # type: ignore[call-overload]
    return json.dumps(record, indent=2, default=lambda value: str(value) if isinstance(value, Path) else value)
