"""Everything that a run has become, and its form in a checkpoint."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import torch
from torch import nn

from gan_refine.config import RefineOptions, require
from gan_refine.ema import WeightAverage
from gan_refine.errors import MismatchError, OptionError
from gan_refine.interfaces import Generator, Images, Latents, Objective, PairedObjective
from gan_refine.refine.health import Health, HealthRecord
from gan_refine.refine.learning import hold_others, learning_groups
from gan_refine.refine.modules import Tensors, load_tensors, module_tensors
from gan_refine.refine.pulls import Pulls
from torch_utils import distributed


class Target(TypedDict):
    """One micro-batch of a pool: latents and the images that the generator shall make of them."""

    z: torch.Tensor
    labels: torch.Tensor
    noise_seed: int | None
    images: torch.Tensor
    carried: torch.Tensor | None  # the critic's real images


class StateRecord(TypedDict):
    """A RefineState as a checkpoint holds it: tensors, numbers and texts alone."""

    counters: dict[str, int]
    skips: dict[str, int]
    generator: Tensors
    average: Tensors
    objective: Tensors
    optimizers: dict[str, dict[str, object]]
    pool: list[list[Target]]
    health: HealthRecord
    rng: torch.Tensor


class Part(NamedTuple):
    """One micro-batch of a pool: latents, images to learn, and the generator's images carried to the teacher for a critic."""

    latents: Latents
    target: Images
    carried: Images | None


CRITIC_BETAS = (0.0, 0.99)  # those that StyleGAN2's discriminators are trained with
COUNTERS = ("steps", "images", "round_start", "warm", "last_tick")


@dataclass
class Trouble:
    """The last batch whose loss or gradient was not finite, by the keys of its noise, and the bands of sigma concerned."""

    network: str  # whose step it was: generator or helper
    images: int
    stream: int
    sigmas: list[float] = field(default_factory=list)  # of the samples whose loss is not finite


class RefineState:
    """Generator, average, helpers, optimisers, pool and counters of a run; all that `advance` changes.

    Noise needs no state: it depends on seed, images seen and the number of the micro-batch. Weights of `frozen`
    modules, which come from files and never change, are left out of checkpoints, and so is the original that `generator` is
    pulled to: a run that goes on makes its state of the generator as the file has it, and then calls `load`.
    """

    def __init__(
        self, generator: Generator, objective: Objective, options: RefineOptions, frozen: Sequence[nn.Module] = ()
    ) -> None:
        assert isinstance(generator, nn.Module) and isinstance(objective, nn.Module), "both are torch modules"
        self.generator, self.objective, self.options = generator, objective, options
        self.frozen = tuple(frozen)
        self.pulls = Pulls(generator, options.elastic, options.keep_images)
        self.average = WeightAverage(generator, options.ema_halflife_images, options.ema_rampup)
        betas = (options.beta1, options.beta2)
        learning = learning_groups(generator, options.train)
        hold_others(generator, learning)
        self.generator_multiples = [group.multiple for group in learning]
        self.optimizers = {"generator": torch.optim.Adam([{"params": g.parameters} for g in learning], betas=betas)}
        groups = objective.helper_groups()
        if groups:
            self.optimizers["helper"] = torch.optim.Adam([{"params": g.parameters} for g in groups], betas=betas)
        self.critic_rate = 0.0
        if isinstance(objective, PairedObjective):
            require("pool_kimg", 0, options.pool_images > 0, "more than 0 with an objective that has a critic")
            group = objective.critic_group()
            self.critic_rate = options.score_lr if group.lr is None else group.lr
            self.optimizers["critic"] = torch.optim.Adam(group.parameters, betas=CRITIC_BETAS)
        self.helper_rates = [options.score_lr if group.lr is None else group.lr for group in groups]
        self.steps = 0  # units of work done: of the helpers' warm-up, of a pool, of the generator
        self.images = 0  # shown to the generator
        self.round_start = 0  # images at the start of this round of warm-up, pool and learning
        self.warm = 0  # fakes that the helpers have learnt from in this round's warm-up
        self.last_tick = 0
        self.pool: list[list[Part]] = []  # batch by batch, this process's micro-batches of each
        self.health = Health()
        self.skips = dict.fromkeys(("generator", "helper", "critic"), 0)  # steps in a row whose gradient was not finite
        self.trouble: Trouble | None = None
        self.parts = self._parts()

    def _parts(self) -> range:
        """The numbers of this process's micro-batches in every global batch: a consecutive share."""
        number, processes = self.options.batch // self.options.batch_gpu, distributed.get_world_size()
        if number % processes:
            raise OptionError(
                f"--batch={self.options.batch} in parts of --batch-gpu={self.options.batch_gpu} cannot be dealt to "
                f"{processes} processes; begin with a --batch-gpu that divides "
                f"{self.options.batch / processes:g} (a run that goes on keeps its own)"
            )
        share = number // processes
        return range(distributed.get_rank() * share, (distributed.get_rank() + 1) * share)

    @property
    def warmup_images(self) -> int:
        return self.options.warmup_images if "helper" in self.optimizers else 0

    @property
    def pool_batches(self) -> int:
        return math.ceil(self.options.pool_images / self.options.batch)

    @property
    def round_images(self) -> int:
        """Images that the generator sees in one round: all passes over its pool; 0 without pools."""
        return self.pool_batches * self.options.batch * self.options.pool_epochs

    @property
    def pool_step(self) -> float:
        """How many times the gradient the images of this round move.

        The score model knows more of the difference in each round than in the one before, and what it knows twice would be
        moved twice too far.
        """
        return self.options.pool_step / (1 + self.round_start // self.round_images) ** self.options.pool_step_decay

    @property
    def phase(self) -> str:
        """What the next steps are for, and how far that is."""
        if self.finished:
            return f"all {self.images} images"
        if self.warm < self.warmup_images:
            return f"warm-up: {self.warm} of {self.options.warmup_images} images"
        if len(self.pool) < self.pool_batches:
            return f"pool: {len(self.pool) * self.options.batch} of {self.options.pool_images} images"
        return f"{self.images} of {self.options.total_images} images"

    @property
    def finished(self) -> bool:
        return self.images >= self.options.total_images

    def is_finite(self) -> bool:
        """Whether all weights that this run trains are numbers."""
        tensors = [
            p for optimizer in self.optimizers.values() for group in optimizer.param_groups for p in group["params"]
        ]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def record(self) -> StateRecord:
        """For a checkpoint; holds the tensors themselves, so that it must be written before the next step.

        Every process must call it: the pool is gathered.
        """
        weights = self._weights()
        return {
            "counters": {name: getattr(self, name) for name in COUNTERS},
            "skips": dict(self.skips),
            "generator": weights["generator"],
            "average": weights["average"],
            "objective": weights["objective"],
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "pool": [_gathered(batch) for batch in self.pool],
            "health": self.health.record(),
            "rng": torch.get_rng_state(),
        }

    def _weights(self) -> dict[str, Tensors]:
        return {
            "generator": module_tensors(self.generator),
            "average": module_tensors(self.average.module),
            "objective": module_tensors(self.objective, self.frozen),
        }

    def load(self, record: StateRecord) -> None:
        """Becomes what was recorded, on any number of processes. Raises MismatchError where networks or options differ."""
        try:
            load_tensors(self.generator, record["generator"])
            load_tensors(self.average.module, record["average"])
            load_tensors(self.objective, record["objective"], self.frozen)
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(record["optimizers"][name])
        except (ValueError, KeyError) as error:
            raise MismatchError(f"the checkpoint does not fit the networks of this run: {error}") from error
        for name in COUNTERS:
            setattr(self, name, record["counters"][name])
        self.skips = dict(record["skips"])
        device = next(self.generator.parameters()).device
        self.pool = [[_part(batch[number], device) for number in self.parts] for batch in record["pool"]]
        self.health = Health.from_record(record["health"])
        torch.set_rng_state(record["rng"])

    def expected_bytes(self) -> int:
        """About what a checkpoint will take once both optimisers have moments and the pool is full."""
        weights = sum(t.nbytes for tensors in self._weights().values() for t in tensors.values())
        learning = [p for o in self.optimizers.values() for group in o.param_groups for p in group["params"]]
        spec = self.generator.spec
        image = 4 * spec.channels * spec.resolution**2 * (2 if "critic" in self.optimizers else 1)
        return weights + 2 * sum(p.nbytes for p in learning) + self.pool_batches * self.options.batch * image

    def fingerprints(self) -> dict[str, bytes]:
        """SHA-256 of each group of weights and of the optimisers' moments, all of which are equal on all processes."""
        groups = {name: list(tensors.values()) for name, tensors in self._weights().items()}
        for name, optimizer in self.optimizers.items():
            groups[f"optimiser of the {name}"] = [
                value
                for state in optimizer.state.values()
                for value in state.values()
                if isinstance(value, torch.Tensor)
            ]
        return {name: _digest(tensors) for name, tensors in groups.items()}


def _digest(tensors: list[torch.Tensor]) -> bytes:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()


def _gathered(batch: list[Part]) -> list[Target]:
    """The micro-batches of all processes, in order, on the CPU."""
    found: list[Target] = []
    for part in batch:
        seed = -1 if part.latents.noise_seed is None else part.latents.noise_seed
        seeds = distributed.gather_across(torch.tensor([seed])).tolist()
        wanted = [part.latents.z, part.latents.labels, part.target, *([] if part.carried is None else [part.carried])]
        split = [distributed.gather_across(tensor).cpu().split(len(part.target)) for tensor in wanted]
        for number, seed in enumerate(seeds):
            z, labels, target, *carried = (tensors[number].clone() for tensors in split)
            noise_seed = None if seed < 0 else seed
            found.append(
                {
                    "z": z,
                    "labels": labels,
                    "noise_seed": noise_seed,
                    "images": target,
                    "carried": next(iter(carried), None),
                }
            )
    share = len(batch)  # so far part by part: process by process is the order of the batch
    return [
        found[part * distributed.get_world_size() + rank]
        for rank in range(len(found) // share)
        for part in range(share)
    ]


def _part(target: Target, device: torch.device) -> Part:
    latents = Latents(target["z"].to(device), target["labels"].to(device), target["noise_seed"])
    carried = None if target["carried"] is None else target["carried"].to(device)
    return Part(latents, target["images"].to(device), carried)
