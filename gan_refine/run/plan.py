"""What a run will do and take, before it starts: calls of each network, seconds and memory from short measured steps."""

import math
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from gan_refine.evaluation import SamplingOptions, Teacher, are_cached
from gan_refine.refine import RefineState, expected_bytes
from gan_refine.refine.state import micro_batch_numbers
from gan_refine.run.build import Run
from gan_refine.run.clock import LEARNING, WARMUP, Phase, duration
from gan_refine.run.hints import hints
from gan_refine.run.timing import (
    SIZES,
    PhaseCost,
    Sizes,
    Steps,
    choose_sizes,
    seconds_of_call,
    seconds_of_evaluation,
)

EVALUATION, TABLES = "evaluation", "final tables"


@dataclass(frozen=True)
class Plan:
    """The phases of a run, what it needs, and what to know before it starts."""

    phases: dict[str, Phase]
    snapshots: int
    memory: int  # bytes
    checkpoint: int  # bytes
    calls: dict[str, int]  # images that pass through each network
    hints: list[str] = field(default_factory=list)


def make_plan(run: Run) -> Plan:
    """Measures small steps of each kind on copies: the run itself is not changed. Every process must call it.

    Raises OptionError for a batch that these processes cannot share.
    """
    options = run.options.refine
    micro_batch_numbers(options)
    sizes = choose_sizes(run)
    steps = Steps(run, sizes)
    snapshots = math.ceil(math.ceil(options.total_images / options.tick_images) / run.options.snap)
    costs = {WARMUP: steps.warmup(), LEARNING: steps.learning()}
    images = {WARMUP: steps.state.warmup_images, LEARNING: options.total_images}
    phases = {
        name: Phase(images[name], cost.seconds) for name, cost in costs.items() if cost is not None and images[name]
    }
    first = next(iter(phases))
    phases[first] = replace(phases[first], seconds=phases[first].seconds + steps.preparation() / phases[first].images)
    if run.sources is not None:
        sets, number, shown = max(run.options.fid_seeds, 1), run.options.eval_images, run.shown(run.generator)
        one, every = (
            seconds_of_evaluation(shown, d, sizes) for d in (run.sources.detectors[:1], run.sources.detectors)
        )
        # The tables have the floor too, and the detectors see the samples of the reference.
        phases |= {EVALUATION: Phase((1 + snapshots) * number, one), TABLES: Phase((2 + 2 * sets) * number, every)}
    phases = sampling_phases(run.teacher, run.sampling, sizes) | phases
    calls, memory = _calls(run, phases, costs), _memory(run, steps.state)
    return Plan(phases, snapshots, memory, expected_bytes(steps.state), calls, hints(run, phases))


def sampling_phases(
    teacher: Teacher | None, wanted: Mapping[str, SamplingOptions], sizes: Sizes = SIZES
) -> dict[str, Phase]:
    """The teacher's samples that are to be made, with the time of one as measured; empty if there are none or they are cached."""
    missing = {} if teacher is None else {name: each for name, each in wanted.items() if not are_cached(teacher, each)}
    if teacher is None or not missing:
        return {}
    call = seconds_of_call(teacher.denoiser, sizes)
    return {name: Phase(2 * each.images, each.steps * call) for name, each in missing.items()}


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
    could = run.objective.default_whitening and run.gan.generator.can_be_whitened
    whitening = f", w whitened by {options.whiten_w:g}" if options.whiten_w else ", w not whitened" if could else ""
    return [
        f"length    {refine.total_images / 1000:g} kimg, batch {refine.batch}, {refine.batch_gpu} at a time, on {options.device}",
        f"method    {options.objective.partition(',')[0]}{whitening}, {refine.warmup_images / 1000:g} kimg warm-up",
        f"rates     generator {refine.glr:g}, score model {refine.score_lr:g}",
        f"measures  {measured}, before and at {plural(plan.snapshots, 'snapshot')}",
        "calls     " + ", ".join(f"{name} {number / 1000:.1f} kimg" for name, number in plan.calls.items()),
        f"time      about {duration(sum(phase.total for phase in plan.phases.values()))}, from small steps here: {parts}",
        f"memory    at least {plan.memory / 2**20:.0f} MiB; disk {disk:.0f} MiB for checkpoints",
        *(f"hint      {text}" for text in plan.hints),
    ]


def plural(number: int, noun: str) -> str:
    """1 snapshot, 2 snapshots."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _calls(run: Run, phases: dict[str, Phase], costs: Mapping[str, PhaseCost | None]) -> dict[str, int]:
    """Images that pass through each network in the whole run, from those for one image of each phase of the loop."""
    images = {name: phase.images for name, phase in phases.items()}
    drawn = 1 if run.objective.joint else 1 + run.objective.auxiliary_steps
    measured = images.get(EVALUATION, 0) + max(images.get(TABLES, 0) - 2 * run.options.eval_images, 0)
    sampled = sum(2 * each.images * each.steps for each in run.sampling.values() if not are_cached(run.teacher, each))
    calls = {"generator": images.get(WARMUP, 0) + drawn * images[LEARNING] + measured, "teacher": sampled}
    for phase, cost in costs.items():
        for network, number in () if cost is None else cost.calls.items():
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
