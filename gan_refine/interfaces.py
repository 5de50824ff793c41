"""The contracts Generator, Denoiser and Objective, and the records that pass between layers; Metric is in metrics/metric.py."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

Images = Float[Tensor, "n c h w"]  # float32, [-1, 1]
Sigma = Float[Tensor, "n 1 1 1"]  # noise standard deviation in image units
Labels = Float[Tensor, "n k"]  # one-hot, k = 0 when unconditional
PixelBytes = UInt8[Tensor, "n c h w"]
PerSample = Float[Tensor, " n"]


@dataclass(frozen=True)
class ImageSpec:
    """Shape of the images that a network makes or denoises; `num_classes` is 0 when unconditional."""

    channels: int
    resolution: int
    num_classes: int = 0

    def __str__(self) -> str:
        size = f"{self.resolution}x{self.resolution}"
        colour = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels}-channel")
        return f"{size} {colour}" + (f", {self.num_classes} classes" if self.num_classes else "")


@dataclass(frozen=True)
class Latents:
    """Everything random about a batch of generated images, so that it can be replayed.

    `noise_seed` None means that the network's constant noise buffers are used.
    """

    z: Float[Tensor, "n ..."]
    labels: Labels
    noise_seed: int | None = None

    def __len__(self) -> int:
        return len(self.z)

    def split(self, size: int) -> list["Latents"]:
        """Consecutive parts of at most `size`; each part gets a noise seed of its own."""
        starts = range(0, len(self), size)
        seeds = [None if self.noise_seed is None else self.noise_seed + start for start in starts]
        parts = zip(self.z.split(size), self.labels.split(size), seeds, strict=True)
        return [Latents(z, labels, seed) for z, labels, seed in parts]


@dataclass(frozen=True)
class Loss:
    """One pass of an objective over a batch: a loss for each sample to back-propagate, and figures for each sample to log."""

    per_sample: PerSample
    sigma: PerSample  # noise level of each sample; 0 where the objective adds no noise
    logs: dict[str, PerSample]


@dataclass(frozen=True)
class SampleRequest:
    """Samples of the teacher that an objective learns from: how many, calls of the teacher for each, and a seed."""

    number: int | None  # None: as many as suit the length of the run
    steps: int
    seed: int


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained at one learning rate; None means the score model's rate, --score-lr."""

    parameters: list[nn.Parameter]
    lr: float | None = None


class Generator(nn.Module, ABC):
    """A trainable module that makes images [N, C, R, R] in [-1, 1] of latents. Parameters are float32.

    A family implements `draw`, `forward` and `export`, and overrides the other methods where it has more to offer.
    """

    spec: ImageSpec
    max_default_lr: ClassVar[float] = float("inf")  # default learning rates are lowered to this
    preset: ClassVar[str] = "gan"  # for a large one on a GPU

    @abstractmethod
    def draw(self, n: int, rng: torch.Generator) -> Latents:
        """`n` random latents on the generator's device, drawn where `rng` is."""

    @abstractmethod
    def forward(self, latents: Latents) -> Images:
        """Differentiable images; the same latents give the same images."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Writes the generator's file with the present weights, atomically."""

    def __call__(self, latents: Latents) -> Images:
        return super().__call__(latents)

    def forward_fp32(self, latents: Latents) -> Images:
        """The images of `forward`, computed in float32 even if the file wants half precision; for gradients."""
        return self(latents)

    def discriminator(self) -> nn.Module | None:
        """The discriminator in the generator's file; None if there is none."""
        return None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, under the name of its part; empty if the network is not divided into parts."""
        return {}

    def kept_parts(self) -> tuple[str, ...]:
        """Parts that are not trained by default."""
        return ()

    def forward_regularized(self, latents: Latents) -> tuple[Images, PerSample | float]:
        """Images, and a regularization loss of each sample that is added to the objective's loss."""
        return self.forward_fp32(latents), 0.0

    def full_size(self) -> "Generator":
        """The generator without a bridge, which shows its images at the teacher's size; itself if there is none."""
        return self

    def with_full_size(self, generator: "Generator") -> "Generator":
        """`generator`, whose images are of full size, behind a bridge like this one's; itself if there is none."""
        return generator

    def notices(self) -> list[str]:
        """What the user should know about files of this generator before the run, one sentence each."""
        return []

    def change(self, latents: Latents) -> dict[str, float]:
        """Root mean squares, in [-1, 1] units, of what refinement changed in the images; empty if it is not recorded."""
        return {}


class Denoiser(nn.Module, ABC):
    """An estimate of E[x | x + sigma n]: every teacher, and every score model copied from one."""

    spec: ImageSpec
    sigma_range: tuple[float, float]

    @abstractmethod
    def forward(self, noisy: Images, sigma: Sigma, labels: Labels) -> Images:
        """The denoised images."""

    @abstractmethod
    def trainable_copy(self) -> "Denoiser":
        """An equal denoiser whose parameters require gradients."""

    def __call__(self, noisy: Images, sigma: Sigma, labels: Labels) -> Images:
        return super().__call__(noisy, sigma, labels)


class Objective(nn.Module, ABC):
    """Where the generator's gradient comes from. Owns the auxiliary networks that it trains, such as the score model.

    The attributes are the defaults that a run takes from its objective.
    """

    default_lr: float = 1e-4  # of the generator
    default_whitening: float = 0.0  # of its w, where it has one
    phase_starts: tuple[float, ...] = (0.0,)  # shares of the run at which the work of a step changes
    auxiliary_steps: int = 0  # steps of the auxiliary networks before each step of the generator
    wanted_samples: SampleRequest | None = None  # what `give_samples` should give before the first step
    batch_multiple: int = 1  # images in memory at a time are a multiple of this, or fewer
    joint: bool = False  # whether `joint_losses` gives both steps from one batch

    @abstractmethod
    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """The loss whose gradient at `fake`, which carries its graph, is the generator's."""

    def auxiliary_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """The loss of the auxiliary networks on detached images. Objectives with `auxiliary_groups` implement it."""
        raise NotImplementedError(f"{type(self).__name__} trains no auxiliary network")

    def joint_losses(self, fake: Images, labels: Labels, rng: torch.Generator) -> tuple[Loss, Loss]:
        """Both losses of one batch, the auxiliary networks' first. Objectives that can be `joint` implement it."""
        raise NotImplementedError(f"{type(self).__name__} has no joint step")

    def auxiliary_groups(self) -> list[ParameterGroup]:
        """Parameters of the auxiliary networks; empty if there are none."""
        return []

    def accepts_batch(self, images: int) -> bool:
        """Whether so many images can be in memory at a time."""
        return images <= self.batch_multiple or images % self.batch_multiple == 0

    def reach(self, done: float) -> None:
        """Called before each step of the generator with the share of the run that is done; the warm-up is at 0."""

    def auxiliary_stepped(self, images: int) -> None:
        """Called after each optimizer step of the auxiliary networks, which learned from so many images."""

    def generator_stepped(self, images: int) -> None:
        """Called after each optimizer step of the generator, whose batch had so many images; also after one that was skipped."""

    def give_samples(self, images: PixelBytes, labels: Labels) -> None:
        """Hands over the samples of the teacher that `wanted_samples` asks for, with their classes."""

    def leave_out_rare_work(self) -> None:
        """From now on no step does what only one in many does, so that a measured step is a usual one.

        Given before the samples, it also shortens what is done with them once.
        """

    def frozen_modules(self) -> list[nn.Module]:
        """Networks that come from files and never change; checkpoints leave them out."""
        return []

    def preparation(self, samples: int) -> list[tuple[nn.Module, int]]:
        """Networks through which some of so many samples pass once, before the first steps, on every process; and how many."""
        return []

    def notices(self) -> list[str]:
        """What the user should know about this objective before the run, one sentence each."""
        return []
