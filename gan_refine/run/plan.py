"""What a run will do and take, before it starts: calls of each network, seconds and memory from short measured steps."""

import copy
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from gan_refine.evaluation import render
from gan_refine.noise import rng_for
from gan_refine.refine import RefineState, expected_bytes, make_targets
from gan_refine.refine.gradients import WARMUP_STREAM, auxiliary_gradient, generator_gradient
from gan_refine.refine.pool import target_gradient
from gan_refine.run.build import Run

MEASURED = 16  # images of a measured step on a CPU; GPUs take a whole micro-batch
STREAM = 5001


@dataclass(frozen=True)
class Plan:
    """Images of each phase of a run, and the seconds that one image takes in it here."""

    rounds: int
    warmup_images: int
    target_images: int
    learned_images: int
    evaluated_images: int
    snapshots: int
    seconds: dict[str, float]  # for one image of "warm-up", "targets", "learning", "evaluation"
    memory: int  # bytes
    checkpoint: int  # bytes
    trains_auxiliary: bool

    def phases(self) -> dict[str, float]:
        """Seconds of each phase."""
        images = {
            "warm-up": self.warmup_images,
            "targets": self.target_images,
            "learning": self.learned_images,
            "evaluation": self.evaluated_images,
        }
        return {name: number * self.seconds[name] for name, number in images.items() if number}


def make_plan(run: Run) -> Plan:
    """Measures one small step of each kind on copies: the run itself is not changed."""
    options = run.options.refine
    rounds = 1
    state = _small_state(run)
    if state.pool_batches:
        in_round = math.ceil(options.pool_images / options.batch) * options.batch * options.pool_epochs
        rounds = math.ceil(options.total_images / in_round)
    snapshots = math.ceil(math.ceil(options.total_images / options.tick_images) / run.options.snap)
    measured = run.options.eval_images if run.options.metrics != "none" else 0
    return Plan(
        rounds,
        state.warmup_images * rounds,
        options.pool_images * rounds,
        options.total_images,
        (1 + snapshots + 2 * run.options.fid_seeds) * measured,
        snapshots,
        _seconds(run, state),
        _memory(run, state),
        expected_bytes(state),
        "auxiliary" in state.optimizers,
    )


def _small_state(run: Run) -> RefineState:
    on_gpu = torch.device(run.options.device).type == "cuda"
    size = run.options.refine.batch_gpu if on_gpu else min(MEASURED, run.options.refine.batch_gpu)
    kept: dict[int, object] = {id(module): module for module in run.objective.frozen_modules()}
    small = replace(run.options.refine, batch=size, batch_gpu=size)
    return RefineState(copy.deepcopy(run.generator), copy.deepcopy(run.objective, kept), small)


def _seconds(run: Run, state: RefineState) -> dict[str, float]:
    """For one image of each phase, the fastest of three steps: the first one builds kernels and fills caches."""
    size, options = state.options.batch, state.options
    latents = state.generator.draw(size, rng_for(0, 0, 0, STREAM))
    work: dict[str, Callable[[], object]] = {"evaluation": lambda: render(state.generator.full_size(), latents)}
    if "auxiliary" in state.optimizers:
        work["warm-up"] = lambda: auxiliary_gradient(state, 0, WARMUP_STREAM)
    if options.pool_images:
        targets = make_targets(state, 0)
        work["targets"] = lambda: make_targets(state, 0)
        work["learning"] = lambda: target_gradient(state, targets)
    else:
        work["learning"] = lambda: _alternate(state)
    return {name: _shortest(step, run.options.device) / size for name, step in work.items()}


def _alternate(state: RefineState) -> None:
    for step in range(state.objective.auxiliary_steps):
        auxiliary_gradient(state, 0, 1 + step)
    generator_gradient(state, 0, 0)


def _shortest(work: Callable[[], object], device: str) -> float:
    found = []
    for _ in range(3):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - started)
    return min(found)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _memory(run: Run, state: RefineState) -> int:
    """Bytes of the measured step, with Adam's moments and, on a CPU, the activations of a whole micro-batch in proportion."""
    moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in state.trained_parameters())
    if torch.device(run.options.device).type == "cuda":
        return torch.cuda.max_memory_allocated(run.options.device) + moments
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + moments


def plan_lines(run: Run, plan: Plan) -> list[str]:
    """The plan in ten lines at most."""
    options, refine = run.options, run.options.refine
    pools = f"{plan.rounds} rounds of {refine.warmup_images / 1000:g} kimg warm-up and a pool of {refine.pool_images / 1000:g} kimg"
    method = pools if refine.pool_images else f"{refine.warmup_images / 1000:g} kimg warm-up, then fresh batches"
    measured = "nothing" if options.metrics == "none" else f"{options.metrics} of {options.eval_images} images"
    phases = plan.phases()
    parts = ", ".join(f"{name} {duration(value)}" for name, value in phases.items())
    disk = (options.keep + 1) * plan.checkpoint / 2**20
    return [
        f"length    {refine.total_images / 1000:g} kimg, batch {refine.batch}, {refine.batch_gpu} at a time, on {options.device}",
        f"method    {method}",
        f"rates     generator {refine.glr:g}, score model {refine.score_lr:g}",
        f"measures  {measured}, before and at {plan.snapshots} snapshots",
        *_call_lines(run, plan),
        f"time      about {duration(sum(phases.values()))}: {parts}",
        "          (from one small step here; without the teacher's samples and the detector's time)",
        f"memory    at least {plan.memory / 2**20:.0f} MiB; disk {disk:.0f} MiB for checkpoints",
    ]


def _call_lines(run: Run, plan: Plan) -> list[str]:
    """How often each network is called, in thousands of images."""
    refine = run.options.refine
    steps = refine.pool_euler_steps if refine.pool_images else 1
    moved = plan.target_images if refine.pool_images else plan.learned_images
    extra = 0 if refine.pool_images else plan.learned_images * run.objective.auxiliary_steps
    made = plan.warmup_images + plan.target_images + plan.learned_images + plan.evaluated_images + extra
    calls = {"generator": made, "teacher": moved * steps, "score model": moved * steps + plan.warmup_images + extra}
    if not plan.trains_auxiliary:
        del calls["score model"]
    return ["calls     " + ", ".join(f"{name} {number / 1000:.1f} kimg" for name, number in calls.items())]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is short."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
