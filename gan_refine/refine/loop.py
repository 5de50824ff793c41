"""The loop: a warm-up, then auxiliary networks and generator in turn, one unit of work at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

from gan_refine.config import RefineOptions
from gan_refine.errors import NonFiniteError
from gan_refine.interfaces import Generator, Objective
from gan_refine.refine.diagnosis import diagnose
from gan_refine.refine.gradients import WARMUP_STREAM, auxiliary_gradient, learning_gradients, optimizer_step
from gan_refine.refine.health import Health
from gan_refine.refine.schedule import generator_rates, rate_factor
from gan_refine.refine.state import RefineState


@dataclass(frozen=True)
class Progress:
    """What a tick tells: images so far, the generator and its weight average, health since the last tick, learning rate."""

    images: int
    generator: Generator
    average: Generator
    health: Health
    glr: float


def refine(generator: Generator, objective: Objective, options: RefineOptions) -> Iterator[Progress]:
    """Trains `generator` in place and yields after every tick of about `tick_images`, and at the end.

    In a warm-up the auxiliary networks learn alone for `warmup_images`, since the gradient of a score model equal to the teacher is
    zero. Then auxiliary networks and generator alternate on fresh batches (Algorithm 1 of arXiv:2305.18455).
    Opens no data set and no file. A step whose gradient is not finite is skipped and counted in the health record.
    """
    for progress in advance(RefineState(generator, objective, options)):
        if progress is not None:
            yield progress


def advance(state: RefineState) -> Iterator[Progress | None]:
    """`refine` from any state to its end, yielding after every unit of work: then the state may be saved, or left for good.

    Yields None between ticks. Every process must take the same steps. Raises NonFiniteError after `max_skips` steps in a row
    whose gradient was not finite, on a GPU at the next tick.
    """
    while not state.finished:
        if state.warm < state.warmup_images:
            auxiliary_gradient(state, state.warm, WARMUP_STREAM)
            optimizer_step(state, "auxiliary", state.auxiliary_rates)
            state.warm += state.options.batch
        else:
            _learn(state)
        state.steps += 1
        progress = _tick(state)
        yield progress
        read = progress is not None or not state.on_gpu  # reading waits for the device
        if read and max(int(count) for count in state.skips.values()) >= state.options.max_skips:
            state.reset_skips()  # a run resumed from here tries again
            raise NonFiniteError(diagnose(state))


def _learn(state: RefineState) -> None:
    """One step of the generator, after those of the auxiliary networks."""
    options = state.options
    factor = rate_factor(state, state.images + options.batch)
    auxiliary = [rate * factor for rate in state.auxiliary_rates]
    rates = {"auxiliary": auxiliary, "generator": generator_rates(state, factor)}
    for network in learning_gradients(state):
        optimizer_step(state, network, rates[network])
    state.images += options.batch
    state.average.update(state.generator, state.images, options.batch)


def _tick(state: RefineState) -> Progress | None:
    """The progress since the last tick, if one is due; the health record then starts afresh."""
    new = state.images - state.last_tick
    if new < state.options.tick_images and not (state.finished and new):
        return None
    health, state.health, state.last_tick = state.health.across_processes(), Health(), state.images
    rate = state.glr * rate_factor(state, state.images)
    return Progress(state.images, state.generator, state.average.module, health, rate)
