"""One-step generators: a diffusion teacher's own U-Net, called once at a fixed noise level."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.fused_blocks import fuse_blocks, unfuse_blocks
from gan_refine.generators.pretrained import PretrainedGenerator, Source
from gan_refine.interfaces import Images, ImageSpec, Latents
from gan_refine.pickles import DEFAULT_NETWORK, TrustedFile, build_teacher, one_step_sigma, write_one_step

SIGMA_RANGE = (0.002, 80.0)  # over which EDM's networks are trained (Table 1 of arXiv:2206.00364)


@dataclass(frozen=True)
class OneStepOptions:
    """`sigma` is the noise level of z: 2.5 in SiD (arXiv:2404.04057) and, in later work, in Diff-Instruct."""

    sigma: float = 2.5

    def __post_init__(self) -> None:
        low, high = SIGMA_RANGE
        require("sigma", self.sigma, low <= self.sigma <= high, f"a noise level between {low} and {high:g}")


class OneStep(PretrainedGenerator):
    """The Generator x = D(sigma z, sigma) with z ~ N(0, I) in the shape of an image; parameters are those of D."""

    family = "one-step"
    draws_noise = False
    max_default_lr = 1e-4  # a U-Net's weights are not scaled at run time as StyleGAN2's are
    preset = "one-step"

    def __init__(self, net: nn.Module, sigma: float) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(True)
        fuse_blocks(self.net)
        self.sigma = sigma
        self.spec = ImageSpec(int(net.img_channels), int(net.img_resolution), int(net.label_dim))  # type: ignore[arg-type]

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """True for what `export` wrote."""
        return not isinstance(source, TrustedFile) and one_step_sigma(source) is not None

    @classmethod
    def from_source(cls, source: Source, which: str = DEFAULT_NETWORK) -> "OneStep":
        """What `export` wrote. Raises FileFormatError for other files, and for a `which`: it holds one network."""
        if isinstance(source, TrustedFile) or (sigma := one_step_sigma(source)) is None:
            raise FileFormatError(
                f"{source.path} is not a one-step generator; make one from a teacher with --gan=one-step:FILE"
            )
        if which != DEFAULT_NETWORK:
            raise FileFormatError(f"{source.path} holds one network and none called {which!r}; leave the choice out")
        return cls(build_teacher(source), sigma)

    @property
    def z_shape(self) -> list[int]:
        return [self.spec.channels, self.spec.resolution, self.spec.resolution]

    def forward(self, latents: Latents) -> Images:
        """Differentiable images, clamped to [-1, 1] as those of every family."""
        return self._images(latents, force_fp32=False)

    def forward_fp32(self, latents: Latents) -> Images:
        return self._images(latents, force_fp32=True)

    def _images(self, latents: Latents, force_fp32: bool) -> Images:
        noise = (self.sigma * latents.z).contiguous(memory_format=torch.channels_last)
        level = torch.full([len(latents), 1, 1, 1], self.sigma, device=noise.device)
        labels = latents.labels if self.spec.num_classes else None
        return self.net(noise, level, labels, force_fp32=force_fp32).clamp(-1, 1)

    def export(self, path: Path) -> None:
        """Writes an EDM network pickle with our source embedded and, beside 'ema', the noise level; atomic."""
        net = copy.deepcopy(self.net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        unfuse_blocks(net)
        write_one_step(path, net, self.sigma)


def one_step_of(net: nn.Module, name: str, options: OneStepOptions) -> OneStep:
    """A one-step generator around the network of the teacher called `name`. Raises OptionError for a sigma out of its range."""
    low, high = float(net.sigma_min), float(net.sigma_max)  # type: ignore[arg-type]
    if not low <= options.sigma <= high:
        raise OptionError(
            f"sigma={options.sigma:g} of one-step is outside {name}'s range, {low:g} to {high:g}; choose one inside"
        )
    return OneStep(net, options.sigma)
