"""The state of a run: networks, optimizers and counters."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from gan_refine.config import RefineOptions
from gan_refine.ema import WeightAverage
from gan_refine.errors import OptionError
from gan_refine.foundation import distributed
from gan_refine.interfaces import Generator, Objective
from gan_refine.refine.adam import Adam
from gan_refine.refine.health import Health
from gan_refine.refine.parameters import freeze_others, resolve_glr, trainable_groups
from gan_refine.refine.regularizers import L2Regularizer

KEPT = 1000  # micro-batches that a diagnosis looks back
COUNTERS = ("steps", "images", "warm", "last_tick")


class Watched(NamedTuple):
    """A micro-batch: the keys of its noise, and the noise level and loss of each sample."""

    network: str  # whose step it was: generator or auxiliary
    images: int
    stream: int
    sigma: torch.Tensor
    per_sample: torch.Tensor

    def broken_sigmas(self) -> list[float]:
        """The noise levels of the samples whose loss is not finite."""
        return self.sigma[~self.per_sample.isfinite()].tolist()


class RefineState:
    """Generator, average, objective, optimizers and counters of a run: all that `advance` changes.

    Random numbers need no state: they depend on the seed, the images seen and the number of the micro-batch. The generator's
    original, which the regularizer uses, is the generator as it is when this is constructed.
    """

    def __init__(self, generator: Generator, objective: Objective, options: RefineOptions) -> None:
        self.generator, self.objective, self.options = generator, objective, options
        self.device = next(generator.parameters()).device
        self.regularizer = L2Regularizer(generator, options.l2_images)
        self.average: WeightAverage[Generator] = WeightAverage(
            generator, options.ema_halflife_images, options.ema_rampup
        )
        trained = trainable_groups(generator, options.train)
        freeze_others(generator, trained)
        self.glr = resolve_glr(generator, objective, options.glr)
        self.generator_multiples = [group.multiple for group in trained]
        self.optimizers = {"generator": self._adam([group.parameters for group in trained])}
        groups = objective.auxiliary_groups()
        if groups:
            self.optimizers["auxiliary"] = self._adam([group.parameters for group in groups])
        self.auxiliary_rates = [options.score_lr if group.lr is None else group.lr for group in groups]
        self.steps = 0  # units of work done: steps of the warm-up and of the generator
        self.images = 0  # shown to the generator
        self.warm = 0  # images that the auxiliary networks have learned from in the warm-up
        self.last_tick = 0
        self.health = Health()
        self.reset_skips()
        self.watched: deque[Watched] = deque(maxlen=KEPT)
        self.micro_batch_numbers = micro_batch_numbers(options)

    def _adam(self, groups: list[list[nn.Parameter]]) -> Adam:
        return Adam(groups, (self.options.beta1, self.options.beta2))

    def reset_skips(self, skips: Mapping[str, int] | None = None) -> None:
        """Sets how many steps of each network in a row had a gradient that was not finite; 0 by default."""
        counts = skips or dict.fromkeys(("generator", "auxiliary"), 0)
        self.skips = {name: torch.tensor(count, device=self.device) for name, count in counts.items()}

    @property
    def on_gpu(self) -> bool:
        """Whether reading a number waits for the device, so that nothing may be read between ticks."""
        return self.device.type == "cuda"

    @property
    def bad_batch(self) -> Watched | None:
        """The last batch whose loss was not finite."""
        return next((batch for batch in reversed(self.watched) if batch.broken_sigmas()), None)

    @property
    def warmup_images(self) -> int:
        return self.options.warmup_images if "auxiliary" in self.optimizers else 0

    @property
    def phase(self) -> str:
        """What the next steps are for, and how far that is."""
        if self.finished:
            return f"all {self.images} images"
        if self.warm < self.warmup_images:
            return f"warm-up: {self.warm} of {self.options.warmup_images} images"
        return f"{self.images} of {self.options.total_images} images"

    @property
    def finished(self) -> bool:
        return self.images >= self.options.total_images

    def trained_parameters(self) -> list[nn.Parameter]:
        """All parameters that this run trains."""
        return [parameter for optimizer in self.optimizers.values() for parameter in optimizer.parameters]

    def is_finite(self) -> bool:
        """Whether all weights that this run trains are finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.trained_parameters())


def micro_batch_numbers(options: RefineOptions) -> range:
    """The numbers of this process's micro-batches in every global batch: a consecutive share. Raises OptionError."""
    number, processes = options.batch // options.batch_gpu, distributed.get_world_size()
    if number % processes:
        raise OptionError(
            f"--batch={options.batch} in micro-batches of --batch-gpu={options.batch_gpu} cannot be divided among {processes} "
            f"processes; choose a --batch-gpu that divides {options.batch / processes:g} (a resumed run keeps its own)"
        )
    share = number // processes
    return range(distributed.get_rank() * share, (distributed.get_rank() + 1) * share)
