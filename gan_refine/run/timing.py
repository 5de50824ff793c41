"""What images take here: short steps of two sizes on copies, from which follows what a batch and what each image of it takes."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from gan_refine.config import RefineOptions
from gan_refine.evaluation import CHUNK, render
from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser, Generator
from gan_refine.metrics import Detector
from gan_refine.noise import rng_for
from gan_refine.refine.gradients import WARMUP_STREAM, auxiliary_gradient
from gan_refine.refine.trial import counting, trial_state, try_step
from gan_refine.run.build import TO_LEARN, Run
from gan_refine.run.ranks import broadcast_from_rank0

SIZES = (2, 8)  # images of the measured steps on a CPU at most, fewer if the teacher takes more than a second for them
LEAST_SHARE = 0.25  # of a step's time that its images take, however noisy the measurement is
STREAM = 5001
Sizes = tuple[int, int]


@dataclass(frozen=True)
class Cost:
    """Seconds of a batch, whatever its size, and of each image in it."""

    batch: float
    image: float

    def each(self, size: int) -> float:
        """Seconds for each image of a batch of this size."""
        return self.image + self.batch / size


@dataclass(frozen=True)
class PhaseCost:
    """Seconds of an image in a phase of the loop, and how many images pass through each of the objective's networks for it."""

    seconds: float
    calls: Mapping[str, float]


def cost(work: Callable[[int], object], sizes: Sizes, device: torch.device | str, warm: bool = False) -> Cost:
    """Of `work` on so many images in each process, from one run of either size; before the first it runs once unless it is `warm`.

    That builds kernels and fills caches.
    """
    small, large = sizes
    if not warm:
        work(small)
    processes = distributed.get_world_size()
    if small == large:
        return Cost(0.0, _seconds(work, large, device) / (large * processes))
    one, other = (_seconds(work, size, device) / processes for size in sizes)
    slope = (other - one) / (large - small)
    image = min(max(slope, LEAST_SHARE * other / large), other / large)
    return Cost(other - large * image, image)


def _seconds(work: Callable[[int], object], size: int, device: torch.device | str) -> float:
    _wait(device)
    started = time.perf_counter()
    work(size)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of_evaluation(generator: Generator, detectors: Sequence[Detector], sizes: Sizes = SIZES) -> float:
    """For one image of a generator, seen by these detectors."""

    def work(size: int) -> None:
        images = render(generator, generator.draw(size, rng_for(0, 0, 0, STREAM)))
        for detector in detectors:
            detector.outputs(images)

    return cost(work, sizes, device_of(generator)).each(CHUNK)


def seconds_of_call(denoiser: Denoiser, sizes: Sizes = SIZES) -> float:
    """For one image of a denoiser that makes samples."""
    return cost(lambda size: _denoise(denoiser, size), sizes, device_of(denoiser)).each(CHUNK)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(module.parameters()).device


@torch.no_grad()
def _denoise(denoiser: Denoiser, size: int) -> None:
    spec, device = denoiser.spec, device_of(denoiser)
    images = torch.zeros([size, spec.channels, spec.resolution, spec.resolution], device=device)
    sigma, labels = torch.ones([size, 1, 1, 1], device=device), torch.zeros([size, spec.num_classes], device=device)
    denoiser(images, sigma, labels)


def choose_sizes(run: Run) -> Sizes:
    """Of the measured steps: on a GPU the micro-batch alone, whose memory counts; on a CPU two that the objective takes."""
    largest, device = run.options.refine.batch_gpu, run.options.device
    if torch.device(device).type == "cuda":
        return largest, largest
    slow = cost(lambda size: _denoise(run.teacher.denoiser, size), (1, 1), device).image
    limit = min(largest, max(int(1 / slow), 1))
    sizes = [next(n for n in range(min(size, limit), 0, -1) if run.objective.accepts_batch(n)) for size in SIZES]
    small, large = json.loads(broadcast_from_rank0(lambda: json.dumps(sizes).encode()))
    return small, large


class Steps:
    """Steps of the loop on copies of a run's networks; each adds gradients to those that are there."""

    def __init__(self, run: Run, sizes: Sizes) -> None:
        self.options, self.sizes, self.warm = run.options, sizes, False
        self.samples = 2 * run.sampling[TO_LEARN].images if TO_LEARN in run.sampling else 0
        spec = run.teacher.denoiser.spec
        self.state = trial_state(run.generator, run.objective, spec, self._options_of(sizes[1]), usual=True)

    def _options_of(self, size: int) -> RefineOptions:
        return replace(self.options.refine, batch=size * distributed.get_world_size(), batch_gpu=size)

    def preparation(self) -> float:
        """Seconds of what the objective does once, before the first steps."""
        spec, device = self.state.generator.spec, self.options.device

        @torch.no_grad()
        def call(network: torch.nn.Module, size: int) -> None:
            network(torch.zeros([size, spec.channels, spec.resolution, spec.resolution], device=device))

        return sum(
            number * distributed.get_world_size() * cost(partial(call, network), self.sizes, device).each(CHUNK)
            for network, number in self.state.objective.preparation(self.samples)
        )

    def warmup(self) -> PhaseCost | None:
        """Of the warm-up; None if nothing learns in it."""
        if "auxiliary" not in self.state.optimizers:
            return None
        return self._measured(lambda: auxiliary_gradient(self.state, 0, WARMUP_STREAM))

    def learning(self) -> PhaseCost:
        """Of learning, where steps that differ count as often as they come."""
        seconds, calls = 0.0, Counter[str]()
        for start, end in itertools.pairwise([*self.state.objective.phase_starts, 1.0]):
            found = self._measured(partial(try_step, self.state, start))
            seconds += (end - start) * found.seconds
            calls.update({network: (end - start) * number for network, number in found.calls.items()})
        return PhaseCost(seconds, calls)

    def _measured(self, step: Callable[[], object]) -> PhaseCost:
        images = 0

        def work(size: int) -> None:
            nonlocal images
            images += size
            self.state.options = self._options_of(size)
            step()

        with counting(self.state.objective) as counts:
            found = cost(work, self.sizes, self.options.device, self.warm)
        self.warm = torch.device(self.options.device).type != "cuda"  # on a CPU the first step warms up for all
        calls = {network: count / images for network, count in counts.items()}
        return PhaseCost(found.each(self.options.refine.batch_gpu), calls)
