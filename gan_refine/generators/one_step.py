"""One-step generators: a diffusion teacher's own U-Net, called once at a fixed level of noise."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.generators.drawing import Drawing, draw_latents
from gan_refine.interfaces import Images, ImageSpec, Latents
from gan_refine.pickles import build_teacher, one_step_sigma, read_networks, write_one_step

EVERY_SIGMA = (0.002, 80.0)  # the range over which EDM's networks are trained


@dataclass(frozen=True)
class OneStepOptions:
    """The level at which z is noise: 2.5 is SiD's choice (arXiv:2404.04057) and, in later work, Diff-Instruct's."""

    sigma: float = 2.5

    def __post_init__(self) -> None:
        low, high = EVERY_SIGMA
        require("sigma", self.sigma, low <= self.sigma <= high, f"a level of noise between {low} and {high:g}")


class OneStep(nn.Module):
    """The Generator x = D(sigma z, sigma) with z ~ N(0, I) in the shape of an image; parameters are those of D."""

    def __init__(self, net: nn.Module, sigma: float) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sigma = sigma
        self.drawing = Drawing()
        self.spec = ImageSpec(int(net.img_channels), int(net.img_resolution), int(net.label_dim))  # type: ignore[arg-type]

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        """z [n, C, R, R] and labels as `drawing` says; `rng` is on the CPU."""
        shape = [self.spec.channels, self.spec.resolution, self.spec.resolution]
        return draw_latents(n, shape, self.spec.num_classes, rng, next(self.parameters()).device, self.drawing)

    def forward(self, latents: Latents) -> Images:
        """Differentiable images, clamped to [-1, 1] as those of every family."""
        noise = (self.sigma * latents.z).contiguous(memory_format=torch.channels_last)
        level = torch.full([len(latents), 1, 1, 1], self.sigma, device=noise.device)
        labels = latents.labels if self.spec.num_classes else None
        return self.net(noise, level, labels, force_fp32=torch.is_grad_enabled()).clamp(-1, 1)

    def critic(self) -> None:
        """Diffusion models come without a discriminator."""
        return None

    def export(self, path: Path) -> None:
        """Writes an EDM network pickle with our source and, beside 'ema', the level of noise; atomic."""
        net = copy.deepcopy(self.net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        write_one_step(path, net, self.sigma)


def distil(teacher: Path, options: OneStepOptions) -> OneStep:
    """A generator that starts as the teacher in that file, which is read without running it. Raises UserError."""
    net = build_teacher(read_networks(teacher))
    low, high = float(net.sigma_min), float(net.sigma_max)  # type: ignore[arg-type]
    if not low <= options.sigma <= high:
        raise OptionError(
            f"sigma={options.sigma:g} of one-step is outside of {teacher.name}'s {low:g} to {high:g}; choose one inside"
        )
    return OneStep(net, options.sigma)


def load_one_step(path: Path, which: str = "ema") -> OneStep:
    """What `export` wrote, read without running it. Raises FileFormatError for other files."""
    source = read_networks(path)
    sigma = one_step_sigma(source)
    if sigma is None:
        raise FileFormatError(f"{path} is no one-step generator; make one of a teacher with --gan=one-step:FILE")
    return OneStep(build_teacher(source), sigma)


def write_one_step_original(path: Path, out: Path, which: str = "ema") -> None:
    """What `export` would write before any refinement."""
    load_one_step(path).export(out)


def is_one_step(path: Path) -> bool:
    """True for what `OneStep.export` wrote. Raises FileFormatError for files that are no networks."""
    return one_step_sigma(read_networks(path)) is not None
