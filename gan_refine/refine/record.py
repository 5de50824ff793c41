"""The state of a run as a checkpoint holds it: tensors, numbers and texts alone."""

import hashlib
from typing import TypedDict

import torch

from gan_refine.errors import MismatchError
from gan_refine.refine.adam import AdamRecord
from gan_refine.refine.health import Health, HealthRecord
from gan_refine.refine.modules import Tensors, load_tensors, module_tensors
from gan_refine.refine.state import COUNTERS, RefineState


class StateRecord(TypedDict):
    """A RefineState in a checkpoint."""

    counters: dict[str, int]
    skips: dict[str, int]
    generator: Tensors
    average: Tensors
    objective: Tensors
    optimizers: dict[str, AdamRecord]
    health: HealthRecord
    rng: torch.Tensor


def record_state(state: RefineState) -> StateRecord:
    """For a checkpoint; holds the tensors themselves, so that it must be written before the next step.

    The objective's frozen modules are left out.
    """
    weights = _weights(state)
    return {
        "counters": {name: getattr(state, name) for name in COUNTERS},
        "skips": {name: int(count) for name, count in state.skips.items()},
        "generator": weights["generator"],
        "average": weights["average"],
        "objective": weights["objective"],
        "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
        "health": state.health.record(),
        "rng": torch.get_rng_state(),
    }


def load_state(state: RefineState, record: StateRecord) -> None:
    """`state` becomes what was recorded, on any number of processes. Raises MismatchError where networks or options differ."""
    try:
        load_tensors(state.generator, record["generator"])
        load_tensors(state.average.module, record["average"])
        load_tensors(state.objective, record["objective"], state.objective.frozen_modules())
        for name, optimizer in state.optimizers.items():
            optimizer.load_state_dict(record["optimizers"][name])
    except (ValueError, KeyError) as error:
        raise MismatchError(f"the checkpoint does not fit the networks of this run: {error}") from error
    for name in COUNTERS:
        setattr(state, name, record["counters"][name])
    state.reset_skips(record["skips"])
    state.health = Health.from_record(record["health"])
    torch.set_rng_state(record["rng"])


def expected_bytes(state: RefineState) -> int:
    """About what a checkpoint will take once the optimizers have moments."""
    weights = sum(tensor.nbytes for tensors in _weights(state).values() for tensor in tensors.values())
    moments = 2 * sum(parameter.nbytes for parameter in state.trained_parameters())
    return weights + moments


def fingerprints(state: RefineState) -> dict[str, bytes]:
    """SHA-256 of each group of weights and of the optimizers' moments, all of which are equal on all processes."""
    groups = {name: list(tensors.values()) for name, tensors in _weights(state).items()}
    for name, optimizer in state.optimizers.items():
        groups[f"{name} optimizer"] = [value for moments in optimizer.state.values() for value in moments.values()]
    return {name: _digest(tensors) for name, tensors in groups.items()}


def _weights(state: RefineState) -> dict[str, Tensors]:
    return {
        "generator": module_tensors(state.generator),
        "average": module_tensors(state.average.module),
        "objective": module_tensors(state.objective, state.objective.frozen_modules()),
    }


def _digest(tensors: list[torch.Tensor]) -> bytes:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()
