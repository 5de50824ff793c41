"""Which parameters of the generator are trained, and at which multiples of the learning rate."""

from typing import NamedTuple

from torch import nn

from gan_refine.config import parse_parts
from gan_refine.errors import OptionError
from gan_refine.interfaces import Generator, Objective

EVERYTHING, AUTO = "all", "auto"


class TrainableGroup(NamedTuple):
    """Parameters that are trained at one multiple of the generator's learning rate."""

    parameters: list[nn.Parameter]
    multiple: float


def resolve_train(generator: Generator, train: str) -> str:
    """`auto` spelled out: `all`, or the parts that the generator does not keep by default; other texts as they are."""
    if train != AUTO:
        return train
    present = [name for name, parameters in generator.parameter_groups().items() if parameters]
    learning = [name for name in present if name not in generator.kept_parts()]
    return EVERYTHING if learning == present else ",".join(learning)


def resolve_glr(generator: Generator, objective: Objective, glr: float | None) -> float:
    """The learning rate of the generator: `glr`, or where that is None the objective's default, within the generator's limit."""
    return min(objective.default_lr, generator.max_default_lr) if glr is None else glr


def trainable_groups(generator: Generator, train: str) -> list[TrainableGroup]:
    """The groups that `train` names, such as `synthesis,affine:0.1`; `all` is one group. Raises OptionError.

    Parts other than `all` need a generator that is divided into parts.
    """
    train = resolve_train(generator, train)
    parts = parse_parts(train)
    if EVERYTHING in parts:
        if len(parts) > 1:
            raise OptionError(f"--train={train} names {EVERYTHING} and parts of it; give one or the other")
        return [TrainableGroup(list(generator.parameters()), parts[EVERYTHING])]
    known = {name: parameters for name, parameters in generator.parameter_groups().items() if parameters}
    if not known:
        raise OptionError(
            f"--train={train} names parts, and a generator of this kind is not divided into parts; "
            f"leave it out, or give --train={EVERYTHING}"
        )
    unknown = [name for name in parts if name not in known]
    if unknown:
        raise OptionError(
            f"--train={train} names {unknown[0]}, which this generator does not have; "
            f"choose from {', '.join(known)}, or {EVERYTHING}"
        )
    return [TrainableGroup(known[name], multiple) for name, multiple in parts.items()]


def freeze_others(generator: Generator, groups: list[TrainableGroup]) -> None:
    """Afterwards the parameters outside of `groups` require no gradient, so that none is computed for them."""
    learning = {id(parameter) for group in groups for parameter in group.parameters}
    for parameter in generator.parameters():
        if id(parameter) not in learning:
            parameter.requires_grad_(False)
