"""Discriminators as critics: telling fakes from better images, and fooling that (logistic loss, lazy R1)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from gan_refine.errors import OptionError
from gan_refine.interfaces import Denoiser, Images, ImageSpec, Labels, PerSample
from gan_refine.networks.stylegan2 import Discriminator

R1_INTERVAL = 16  # one step in so many carries the penalty, weighted by this number


def choose_critic(start: str, given: nn.Module | None, spec: ImageSpec, width: int, objective: str) -> nn.Module:
    """The GAN's own discriminator, or with `start` fresh a new one of at most `width` channels, ready to learn.

    Its own has learnt what this generator gets wrong, where a new one first drives it astray. Raises OptionError without one.
    """
    if start == "fresh":
        base = width * 8 * max(spec.resolution // 16, 1)
        return Discriminator(spec.num_classes, spec.resolution, spec.channels, "orig", base, width)
    if given is None:
        raise OptionError(
            f"the GAN's file holds no discriminator; give --objective={objective},start=fresh or --objective=diff-instruct"
        )
    if not takes(given, spec):
        raise OptionError(
            f"the GAN's own discriminator is for images of its full size but the teacher denoises {spec}; "
            f"give --objective={objective},start=fresh or --objective=diff-instruct"
        )
    return given.requires_grad_(True)


def takes(critic: nn.Module, spec: ImageSpec) -> bool:
    """Whether a discriminator is for images of that size, as far as it tells."""
    return getattr(critic, "img_resolution", spec.resolution) == spec.resolution


def critic_loss(
    critic: nn.Module,
    real: Images,
    fake: Images,
    labels: Labels | None,
    r1_gamma: float,
    real_labels: Labels | None = None,
) -> PerSample:
    """softplus(-real) + softplus(fake), and R1's penalty at the real images unless `r1_gamma` is 0 (arXiv:1801.04406, eq. 9).

    `labels` are the fakes', and those of the real images unless these have their own.
    """
    real = real.detach().requires_grad_(r1_gamma > 0)
    logits = critic(real, labels if real_labels is None else real_labels)
    loss = F.softplus(-logits).flatten() + F.softplus(critic(fake, labels)).flatten()
    if r1_gamma > 0:
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        loss = loss + r1_gamma / 2 * R1_INTERVAL * gradient.square().flatten(1).sum(1)
    return loss


def fooling_loss(critic: nn.Module, fake: Images, labels: Labels | None) -> PerSample:
    """softplus(-logit): what the generator lowers; the critic's own parameters receive no gradient."""
    with frozen(critic):
        return F.softplus(-critic(fake, labels)).flatten()


@contextmanager
def frozen(module: nn.Module | Denoiser) -> Iterator[None]:
    """Inside, no parameter of `module` requires a gradient; afterwards each is as it was."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
