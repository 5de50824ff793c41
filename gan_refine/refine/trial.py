"""Steps that are only tried, on copies, to see what they take: nothing given is changed."""

import copy
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from gan_refine.config import LEARNING_SAMPLES, RefineOptions
from gan_refine.interfaces import Denoiser, Generator, ImageSpec, Objective
from gan_refine.refine.gradients import learning_gradients
from gan_refine.refine.state import RefineState


def trial_state(
    generator: Generator, objective: Objective, spec: ImageSpec, options: RefineOptions, usual: bool = False
) -> RefineState:
    """Copies of both networks, of which noise takes the place of the teacher's samples; frozen modules are shared.

    With `usual` no step does what only one in many does, nor what is done only once.
    """
    kept: dict[int, object] = {id(module): module for module in objective.frozen_modules()}
    state = RefineState(copy.deepcopy(generator), copy.deepcopy(objective, kept), options)
    if usual:
        state.objective.leave_out_rare_work()
    give_stand_ins(state.objective, spec)
    return state


def try_step(state: RefineState, start: float) -> None:
    """The gradients of the first step after this share of the run; they add up with those that are there."""
    state.images = math.ceil(start * state.options.total_images)
    for _ in learning_gradients(state):
        pass


def give_stand_ins(objective: Objective, spec: ImageSpec) -> None:
    """Noise in place of the teacher's samples that the objective wants, if it does."""
    if objective.wanted_samples is not None:
        number = objective.wanted_samples.number or LEARNING_SAMPLES
        shape = [number, spec.channels, spec.resolution, spec.resolution]
        images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        objective.give_samples(images, torch.zeros([len(images), spec.num_classes]))


@contextmanager
def counting(objective: Objective) -> Iterator[Counter[str]]:
    """How many images pass inside through teacher, score model or average, the discriminator, other frozen networks."""
    counts = Counter[str]()

    def count(network: str, module: nn.Module, given: tuple, made: torch.Tensor) -> None:
        counts[network] += len(made)

    frozen, handles = objective.frozen_modules(), []
    for path, module in objective.named_modules():
        if isinstance(module, Denoiser):
            network = "teacher" if any(module is other for other in frozen) else "score model"
        elif path.rpartition(".")[2] == "discriminator":
            network = "discriminator"
        elif any(module is other for other in frozen):
            network = "ImageNet features"
        else:
            continue
        handles.append(module.register_forward_hook(partial(count, network)))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
