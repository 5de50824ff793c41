"""The four contracts - Generator, Denoiser, Objective, Metric - and the records that pass between layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Images = Float[Tensor, "n c h w"]  # float32, [-1, 1]
Sigma = Float[Tensor, "n 1 1 1"]  # noise standard deviation in image units
Labels = Float[Tensor, "n k"]  # one-hot, k = 0 when unconditional
AugmentLabels = Float[Tensor, "n a"]  # how an image was moved; all zeros where it was not
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
class Terms:
    """What one pass of an objective gives: a loss a sample to back-propagate, and figures a sample to log."""

    loss: PerSample
    sigma: PerSample
    logs: dict[str, PerSample]


@dataclass(frozen=True)
class HelperGroup:
    """Parameters that learn at one rate; None means the score model's."""

    parameters: list[torch.nn.Parameter]
    lr: float | None = None


@runtime_checkable
class Generator(Protocol):
    """A trainable torch module that makes images. Parameters are float32."""

    spec: ImageSpec

    def draw(self, n: int, rng: torch.Generator) -> Latents: ...

    def __call__(self, latents: Latents) -> Images: ...

    def critic(self) -> torch.nn.Module | None: ...

    def export(self, path: Path) -> None: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


@runtime_checkable
class AnchoredGenerator(Generator, Protocol):
    """A generator with a loss of its own, which is added to the objective's; both belong to the same latents."""

    def anchored(self, latents: Latents) -> tuple[Images, PerSample]: ...


@runtime_checkable
class Parted(Protocol):
    """A generator whose parameters fall into named groups, each of which can learn while others stay as they are.

    No groups say that it is not divided.
    """

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]: ...


@runtime_checkable
class Denoiser(Protocol):
    """E[x | noisy] at a noise level: every teacher, and every score model copied from one."""

    spec: ImageSpec
    sigma_range: tuple[float, float]

    def __call__(self, noisy: Images, sigma: Sigma, labels: Labels) -> Images: ...

    def trainable_copy(self) -> "Denoiser": ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...


@runtime_checkable
class AugmentedDenoiser(Protocol):
    """A denoiser that was trained on moved images and can be told how they were moved; `augment_dim` 0 if it was not."""

    augment_dim: int

    def denoise_augmented(
        self, noisy: Images, sigma: Sigma, labels: Labels, augment_labels: AugmentLabels
    ) -> Images: ...


@runtime_checkable
class Objective(Protocol):
    """Where the generator's gradient comes from. Owns its helper networks: a score model, or none."""

    helper_steps: int  # steps of the helpers for each step of the generator

    def helper_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms | None: ...

    def generator_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms: ...

    def helper_groups(self) -> list[HelperGroup]: ...

    def prepare(self, rng: torch.Generator) -> Iterator[tuple[int, int]]: ...


@runtime_checkable
class PairedObjective(Objective, Protocol):
    """An objective with a critic for pools, which tells each fake from the same fake carried to the teacher."""

    def carry(self, fake: Images, labels: Labels) -> Images: ...

    def critic_group(self) -> HelperGroup: ...

    def critic_terms(self, fake: Images, carried: Images, labels: Labels, penalise: bool) -> Terms: ...

    def fooling_terms(self, fake: Images, labels: Labels) -> Terms: ...


@runtime_checkable
class PerceivingObjective(Objective, Protocol):
    """An objective with a distance of its own between images and those of a pool, for each sample, 0 where they are equal."""

    def difference(self, fake: Images, target: Images) -> PerSample: ...


@runtime_checkable
class Metric(Protocol):
    """A figure of merit over a stream of images. `first` is the first image's number in the stream, by default the next."""

    name: str

    def update(self, images_uint8: PixelBytes, first: int | None = None) -> None: ...

    def result(self) -> dict[str, float]: ...
