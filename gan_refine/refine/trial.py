"""Steps that are only tried, on copies, to see what they take: nothing given is changed."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gan_refine.config import RefineOptions
from gan_refine.interfaces import Generator, ImageSpec, Objective
from gan_refine.refine.state import RefineState

COUNTED = ("teacher", "score_model", "discriminator")  # attributes of objectives


def trial_state(generator: Generator, objective: Objective, spec: ImageSpec, options: RefineOptions) -> RefineState:
    """Copies of both networks, of which noise takes the place of the teacher's samples; frozen modules are shared."""
    kept: dict[int, object] = {id(module): module for module in objective.frozen_modules()}
    state = RefineState(copy.deepcopy(generator), copy.deepcopy(objective, kept), options)
    give_stand_ins(state.objective, spec)
    return state


def enter_phase(state: RefineState, start: float) -> None:
    """The next step is the first one after this share of the run."""
    state.images = math.ceil(start * state.options.total_images)


def give_stand_ins(objective: Objective, spec: ImageSpec) -> None:
    """Noise in place of the teacher's samples that the objective wants, if it does."""
    if objective.wanted_samples is not None:
        shape = [objective.wanted_samples.number, spec.channels, spec.resolution, spec.resolution]
        images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        objective.give_samples(images, torch.zeros([len(images), spec.num_classes]))


@contextmanager
def counting(objective: Objective) -> Iterator[dict[str, int]]:
    """How many images pass inside through each network of the objective, such as `score model`."""
    counts: dict[str, int] = {}
    found = {name.rpartition(".")[2]: module for name, module in objective.named_modules()}
    handles = []
    for name in COUNTED:
        if name in found:
            spelled = name.replace("_", " ")

            def count(module: torch.nn.Module, given: tuple, made: torch.Tensor, spelled: str = spelled) -> None:
                counts[spelled] = counts.get(spelled, 0) + len(made)

            handles.append(found[name].register_forward_hook(count))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
