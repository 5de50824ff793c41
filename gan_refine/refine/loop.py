"""The loop: rounds of warm-up, pool and learning, one unit of work at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gan_refine.config import RefineOptions
from gan_refine.errors import NonFiniteError
from gan_refine.interfaces import Generator, Objective
from gan_refine.noise import rng_for
from gan_refine.refine.diagnosis import diagnose
from gan_refine.refine.gradients import (
    PREPARE_STREAM,
    WARMUP_STREAM,
    apply,
    critic_gradient,
    generator_gradient,
    helper_gradient,
    pool_batch,
    towards_pool,
)
from gan_refine.refine.health import Health
from gan_refine.refine.state import RefineState


@dataclass(frozen=True)
class Progress:
    """State after a tick. `average` is the smoothed generator: what is evaluated and exported."""

    images: int
    generator: Generator
    average: Generator
    health: Health
    glr: float


def lr_factor(done: float, rampup_share: float, decay_share: float) -> float:
    """A straight rise over the first `rampup_share` of the run, 1, a cosine to 0 over the last `decay_share`; `done` is in [0, 1].

    Adam's first steps have full size whatever the gradient: without the rise they throw a trained network off its place.
    """
    rise = min(done / rampup_share, 1.0) if rampup_share else 1.0
    if done <= 1 - decay_share or decay_share == 0:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * (done - (1 - decay_share)) / decay_share))


def refine(generator: Generator, objective: Objective, options: RefineOptions) -> Iterator[Progress]:
    """Trains `generator` in place and yields after every tick of about `tick_images`, and at the end.

    First the helpers alone learn for `warmup_images`, since a score model equal to the teacher has nothing to say. Then the
    generator learns a pool of its own images moved along the objective's gradient (see `pool_batch`), and so on; or, with
    `pool_images` 0, helpers and generator take turns on fresh batches (Algorithm 1 of arXiv:2305.18455).
    Opens no data set and no file. Parameters of the generator and of the objective's helpers are moved by Adam; a step whose
    gradient is not finite is skipped and counted in the health record.
    """
    for progress in advance(RefineState(generator, objective, options)):
        if progress is not None:
            yield progress


def advance(state: RefineState) -> Iterator[Progress | None]:
    """`refine` from any state to its end, yielding after every unit of work: then the state may be saved, or left for good.

    Yields None between ticks. Every process must take the same steps. Raises NonFiniteError after `max_skips` steps in a row
    whose gradient was not finite.
    """
    for _ in state.objective.prepare(rng_for(state.options.seed, 0, 0, PREPARE_STREAM)):
        pass
    while not state.finished:
        if state.warm < state.warmup_images:
            _warm_up(state)
        elif len(state.pool) < state.pool_batches:
            made = len(state.pool) * state.options.batch
            state.pool.append(pool_batch(state, state.round_start + made))
        else:
            _learn(state)
        state.steps += 1
        yield _tick(state)
        if max(state.skips.values()) >= state.options.max_skips:
            state.skips = dict.fromkeys(state.skips, 0)  # a run that goes on from here tries again
            raise NonFiniteError(diagnose(state))


def _warm_up(state: RefineState) -> None:
    """One step of the helpers alone."""
    helper_gradient(state, state.round_start + state.warm, WARMUP_STREAM)
    left = 0.5 * (1 + math.cos(math.pi * state.warm / state.options.warmup_images))
    boost = 1 + left * (state.options.warmup_boost - 1)
    apply(state, "helper", [rate * boost for rate in state.helper_rates])
    state.warm += state.options.batch


def _learn(state: RefineState) -> None:
    """One step of the generator, after those of the helpers if there is no pool; a new round after the last pass over a pool."""
    options = state.options
    factor = _factor(state, state.images + options.batch)
    if state.pool:
        _learn_pool(state, factor)
    else:
        for helper_step in range(state.objective.helper_steps):
            helper_gradient(state, state.images, 1 + helper_step)
            apply(state, "helper", [rate * factor for rate in state.helper_rates])
        generator_gradient(state, state.images, 0)
        apply(state, "generator", _generator_rates(state, factor))
    state.images += options.batch
    state.average.update(state.generator, state.images, options.batch)
    if state.pool and state.images - state.round_start >= state.round_images:
        state.round_start, state.warm, state.pool = state.images, 0, []


def _learn_pool(state: RefineState, factor: float) -> None:
    """One step of the generator towards its pool, and then one of the critic, if there is one, on the same images."""
    batch = state.pool[state.images // state.options.batch % len(state.pool)]
    fakes = towards_pool(state, batch)
    apply(state, "generator", _generator_rates(state, factor))
    if "critic" in state.optimizers:
        critic_gradient(state, batch, fakes)
        apply(state, "critic", [state.critic_rate * factor])


def _generator_rates(state: RefineState, factor: float) -> list[float]:
    return [state.options.glr * factor * multiple for multiple in state.generator_multiples]


def _factor(state: RefineState, images: int) -> float:
    """Of the rates after `images`. They rise once a run and fall once a round, so that a pool is made of settled images."""
    options, left = state.options, state.options.total_images - state.round_start
    length = min(state.round_images or left, left)
    fall = lr_factor((images - state.round_start) / length, 0.0, options.lr_decay) if left > 0 else 0.0
    return lr_factor(images / options.total_images, options.lr_rampup, 0.0) * fall


def _tick(state: RefineState) -> Progress | None:
    """The progress since the last tick, if one is due; the health record then starts afresh."""
    new = state.images - state.last_tick
    if new < state.options.tick_images and not (state.finished and new):
        return None
    health, state.health, state.last_tick = state.health.across_processes(), Health(), state.images
    rate = state.options.glr * _factor(state, state.images)
    return Progress(state.images, state.generator, state.average.module, health, rate)
