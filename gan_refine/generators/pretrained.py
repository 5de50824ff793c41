"""What the families of generators that are read from files share: loading, writing, and the drawing of latents."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from gan_refine.errors import MismatchError, OptionError
from gan_refine.interfaces import Generator, Latents
from gan_refine.labels import Frequencies, draw_labels, parse_frequencies
from gan_refine.pickles import DEFAULT_NETWORK, NetworkFile, TrustedFile, read_networks

Source = NetworkFile | TrustedFile  # an opened file


@dataclass(frozen=True)
class LatentOptions:
    """How often each class is drawn, None for equally often; whether noise inputs are the constant ones of the file."""

    class_frequencies: Frequencies | None = None
    constant_noise: bool = False


class PretrainedGenerator(Generator):
    """A Generator around a network `net` from a file. Each subclass is a family, listed under its `family` in GENERATORS."""

    family: ClassVar[str]
    has_noise_inputs: bool = False  # whether they can be constant
    can_be_whitened: ClassVar[bool] = False  # whether `whitened` is for them
    draws_noise: bool = True  # whether images of one z differ with the noise seed
    latent_options: LatentOptions = LatentOptions()
    net: nn.Module

    @classmethod
    @abstractmethod
    def accepts(cls, source: Source) -> bool:
        """Whether this family makes generators of such a file."""

    @classmethod
    @abstractmethod
    def from_source(cls, source: Source, which: str = DEFAULT_NETWORK) -> "PretrainedGenerator":
        """The generator under key `which` of an opened file, on the CPU in evaluation mode. Raises FileFormatError."""

    @classmethod
    def load(cls, path: Path, which: str = DEFAULT_NETWORK) -> "PretrainedGenerator":
        """The generator under key `which` of a file that is read without running it. Raises FileFormatError."""
        return cls.from_source(read_networks(path), which)

    def write_original(self, path: Path) -> None:
        """Writes what `export` writes before any refinement, which this generator must not have seen yet."""
        self.export(path)

    @property
    @abstractmethod
    def z_shape(self) -> Sequence[int]:
        """Shape of one sample's z."""

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        """z ~ N(0, I) [n, *z_shape], labels by their frequencies, and a seed for noise inputs, None for constant noise.

        All are drawn where `rng` is; z and labels do not depend on `constant_noise`.
        """
        device = next(self.parameters()).device
        z = torch.randn([n, *self.z_shape], generator=rng, device=rng.device)
        labels = draw_labels(n, self.spec.num_classes, rng, self.latent_options.class_frequencies)
        if rng.device.type == "cpu":
            seed = int(torch.randint(2**62, [], generator=rng))
        else:  # without waiting for the device; another seed than that of z
            seed = rng.initial_seed() ^ 2**61
        return Latents(z.to(device), labels.to(device), None if self.latent_options.constant_noise else seed)

    def set_latent_options(self, labels: str, noise_mode: str) -> None:
        """Draws latents as --labels and --noise-mode say from now on. Raises OptionError for what the generator lacks."""
        constant = noise_mode == "const"
        if constant and not self.has_noise_inputs:
            raise OptionError(
                "--noise-mode=const is for generators with noise inputs, and this one has no constant ones; leave it out"
            )
        self.latent_options = LatentOptions(parse_frequencies(labels, self.spec), constant)

    def truncated(self, psi: float) -> "PretrainedGenerator":
        """The same network with truncation psi: 1 changes nothing, 0 gives the mean image. Raises MismatchError by default."""
        raise MismatchError(f"{self.family} generators have no truncation; leave --trunc out")

    def whitened(self, power: float) -> "PretrainedGenerator":
        """A copy that makes more of directions of w in which it hardly varies. Raises MismatchError by default."""
        raise MismatchError(f"--whiten-w is for StyleGAN2 generators, and this is one of {self.family}; leave it out")
