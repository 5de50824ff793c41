"""What a run will do and take, before it starts: calls of each network, seconds and memory from short measured steps."""

import itertools
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from gan_refine.evaluation import SamplingOptions, Teacher, are_cached, render
from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser, Generator
from gan_refine.metrics import Detector
from gan_refine.noise import rng_for
from gan_refine.refine import RefineState, expected_bytes
from gan_refine.refine.gradients import WARMUP_STREAM, auxiliary_gradient
from gan_refine.refine.state import micro_batch_numbers
from gan_refine.refine.trial import counting, trial_state, try_step
from gan_refine.run.build import Run
from gan_refine.run.clock import Phase, duration
from gan_refine.run.ranks import broadcast_from_rank0

MEASURED = 8  # images of a measured step on a CPU at most, fewer if the teacher takes more than a second for them
RUNS = 2  # of what is measured; the first, which builds kernels and fills caches, is not timed
STREAM = 5001
SAMPLES, WARMUP, LEARNING = "teacher samples", "warm-up", "learning"
EVALUATION, TABLES = "evaluation", "final tables"
Measured = tuple[float, dict[str, float]]  # seconds, and images that pass through each of the objective's networks


@dataclass(frozen=True)
class Plan:
    """The phases of a run, and what it needs."""

    phases: dict[str, Phase]
    snapshots: int
    memory: int  # bytes
    checkpoint: int  # bytes
    calls: dict[str, int]  # images that pass through each network


def make_plan(run: Run) -> Plan:
    """Measures one small step of each kind on copies: the run itself is not changed. Every process must call it.

    Raises OptionError for a batch that these processes cannot share.
    """
    options = run.options.refine
    micro_batch_numbers(options)
    state = _small_state(run)
    snapshots = math.ceil(math.ceil(options.total_images / options.tick_images) / run.options.snap)
    images = {WARMUP: state.warmup_images, LEARNING: options.total_images}
    steps, size = _measured_steps(state, run.options.device), state.options.batch_gpu
    phases = {name: Phase(number, steps[name][0]) for name, number in images.items() if number}
    if run.sources is not None:
        sets, number, shown = max(run.options.fid_seeds, 1), run.options.eval_images, run.shown(state.generator)
        one, every = (seconds_of_evaluation(shown, d, size) for d in (run.sources.detectors[:1], run.sources.detectors))
        # The tables have the floor too, and the detectors see the samples of the reference.
        phases |= {EVALUATION: Phase((1 + snapshots) * number, one), TABLES: Phase((2 + 2 * sets) * number, every)}
    phases = sampling_phase(run.teacher, run.sampling, size) | phases
    per_image = {name: counts for name, (_, counts) in steps.items()}
    return Plan(phases, snapshots, _memory(run, state), expected_bytes(state), _calls(run, phases, per_image))


def sampling_phase(
    teacher: Teacher | None, wanted: Sequence[SamplingOptions], size: int = MEASURED
) -> dict[str, Phase]:
    """The teacher's samples that are to be made, with the time of one as measured; empty if there are none or they are cached."""
    missing = [] if teacher is None else [options for options in wanted if not are_cached(teacher, options)]
    if teacher is None or not missing:
        return {}
    images, calls = sum(2 * each.images for each in missing), sum(2 * each.images * each.steps for each in missing)
    one = _seconds_of_image(lambda: _denoise(teacher.denoiser, size), size, _device(teacher.denoiser))
    return {SAMPLES: Phase(images, one * calls / images)}


def seconds_of_evaluation(generator: Generator, detectors: Sequence[Detector], size: int = MEASURED) -> float:
    """For one image of a generator, seen by these detectors."""
    latents = generator.draw(size, rng_for(0, 0, 0, STREAM))

    def work() -> None:
        images = render(generator, latents)
        for detector in detectors:
            detector.outputs(images)

    return _seconds_of_image(work, size, _device(generator))


def _device(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


@torch.no_grad()
def _denoise(denoiser: Denoiser, size: int) -> None:
    spec, device = denoiser.spec, _device(denoiser)
    images = torch.zeros([size, spec.channels, spec.resolution, spec.resolution], device=device)
    sigma, labels = torch.ones([size, 1, 1, 1], device=device), torch.zeros([size, spec.num_classes], device=device)
    denoiser(images, sigma, labels)


def _small_state(run: Run) -> RefineState:
    size, options = run.options.refine.batch_gpu, run.options.refine
    if torch.device(run.options.device).type != "cuda":
        slow = _seconds_of_image(lambda: _denoise(run.teacher.denoiser, 1), 1, run.options.device)
        size = min(MEASURED, size, max(int(1 / slow), 1))
        size = next(number for number in range(size, 0, -1) if run.objective.accepts_batch(number))
    size = int(broadcast_from_rank0(lambda: str(size).encode()))
    small = replace(options, batch=size * distributed.get_world_size(), batch_gpu=size)
    return trial_state(run.generator, run.objective, run.teacher.denoiser.spec, small)


def _measured_steps(state: RefineState, device: str) -> dict[str, Measured]:
    """For one image of each phase of the loop; steps of learning that differ count as often as they come."""
    found: dict[str, Measured] = {}
    later = RUNS if torch.device(device).type == "cuda" else 1  # on a CPU the first of them warms up for all
    runs = RUNS
    if "auxiliary" in state.optimizers:
        found[WARMUP] = _measured(state, lambda: auxiliary_gradient(state, 0, WARMUP_STREAM), device, runs)
        runs = later
    seconds, calls = 0.0, dict[str, float]()
    for start, end in itertools.pairwise([*state.objective.phase_starts, 1.0]):
        one, counts = _measured(state, partial(try_step, state, start), device, runs)
        runs = later
        seconds += (end - start) * one
        calls |= {network: calls.get(network, 0.0) + (end - start) * number for network, number in counts.items()}
    return found | {LEARNING: (seconds, calls)}


def _measured(state: RefineState, step: Callable[[], object], device: str, runs: int) -> Measured:
    size = state.options.batch_gpu
    with counting(state.objective) as counts:
        seconds = _seconds_of_image(step, size, device, runs)
    return seconds, {network: count / (runs * size) for network, count in counts.items()}


def _seconds_of_image(work: Callable[[], object], size: int, device: torch.device | str, runs: int = RUNS) -> float:
    """Work on `size` images in each process, the last of so many times."""
    started = 0.0
    for _ in range(runs):
        _wait(device)
        started = time.perf_counter()
        work()
    _wait(device)
    return (time.perf_counter() - started) / (size * distributed.get_world_size())


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _memory(run: Run, state: RefineState) -> int:
    """Bytes of the measured step, with Adam's moments; on a CPU the step is smaller than those of the run."""
    moments = 2 * sum(parameter.numel() * parameter.element_size() for parameter in state.trained_parameters())
    if torch.device(run.options.device).type == "cuda":
        return torch.cuda.max_memory_allocated(run.options.device) + moments
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + moments


def plan_lines(run: Run, plan: Plan) -> list[str]:
    """The plan in ten lines at most."""
    options, refine = run.options, run.options.refine
    measured = "nothing" if options.metrics == "none" else f"{options.metrics} of {options.eval_images} images"
    parts = ", ".join(f"{name} {duration(phase.total)}" for name, phase in plan.phases.items())
    disk = (options.keep + 1) * plan.checkpoint / 2**20
    return [
        f"length    {refine.total_images / 1000:g} kimg, batch {refine.batch}, {refine.batch_gpu} at a time, on {options.device}",
        f"method    {options.objective.partition(',')[0]}, {refine.warmup_images / 1000:g} kimg warm-up",
        f"rates     generator {refine.glr:g}, score model {refine.score_lr:g}",
        f"measures  {measured}, before and at {plural(plan.snapshots, 'snapshot')}",
        "calls     " + ", ".join(f"{name} {number / 1000:.1f} kimg" for name, number in plan.calls.items()),
        f"time      about {duration(sum(phase.total for phase in plan.phases.values()))}, from small steps here: {parts}",
        f"memory    at least {plan.memory / 2**20:.0f} MiB; disk {disk:.0f} MiB for checkpoints",
    ]


def plural(number: int, noun: str) -> str:
    """1 snapshot, 2 snapshots."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _calls(run: Run, phases: dict[str, Phase], per_image: dict[str, dict[str, float]]) -> dict[str, int]:
    """Images that pass through each network in the whole run, from those for one image of each phase of the loop."""
    images = {name: phase.images for name, phase in phases.items()}
    drawn = 1 if run.objective.joint else 1 + run.objective.auxiliary_steps
    measured = images.get(EVALUATION, 0) + max(images.get(TABLES, 0) - 2 * run.options.eval_images, 0)
    sampled = sum(2 * each.images * each.steps for each in run.sampling if not are_cached(run.teacher, each))
    calls = {"generator": images.get(WARMUP, 0) + drawn * images[LEARNING] + measured, "teacher": sampled}
    for phase, counts in per_image.items():
        for network, number in counts.items():
            calls[network] = calls.get(network, 0) + round(number * images.get(phase, 0))
    return {network: number for network, number in calls.items() if number}


def done_images(state: RefineState) -> dict[str, int]:
    """How many images of each phase of the loop are done."""
    return {WARMUP: state.warm, LEARNING: state.images}


def next_phase(state: RefineState) -> tuple[str, int]:
    """The phase of the next unit of work, and the images of it if it is the first of them, else 0."""
    if state.finished:
        return LEARNING, 0
    if state.warm < state.warmup_images:
        return WARMUP, 0 if state.warm else state.warmup_images
    return LEARNING, 0 if state.images else state.options.total_images
