"""Diff-Instruct with a critic whose real images are the generator's own, carried to the teacher's distribution."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.interfaces import Denoiser, HelperGroup, Images, Labels, Terms
from gan_refine.objectives.critics import choose_critic, critic_loss, fooling_loss
from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.sampling import carry


@dataclass(frozen=True)
class CarriedOptions(DiffInstructOptions):
    """Diff-Instruct's options; how fakes are carried; the critic's weight against the squared error towards the moved images."""

    sigma_mean: float = -0.7  # where the score model is at its best and one draw says most about an image
    sigma_std: float = 0.5
    sigma_max: float = 2.5  # noise level at which one ODE hands over to the other
    steps: int = 10  # of each ODE; with 7 the error of the steps is two thirds of the way moved
    overshoot: float = 1.0  # how many times the way from a fake to its carried image is gone
    start: Literal["pickle", "fresh"] = "pickle"  # the GAN's own discriminator, or a new one
    critic_weight: float = 30.0
    critic_lr: float = 1e-3
    critic_width: int = 64  # channels at most, of a fresh one
    r1_gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sigma_max", "critic_lr", "overshoot"):
            require(name, getattr(self, name), getattr(self, name) > 0, "a positive number")
        for name in ("critic_weight", "r1_gamma"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "a number of at least 0")
        require("steps", self.steps, self.steps >= 2, "at least 2")
        require("critic_width", self.critic_width, self.critic_width >= 1, "at least 1")


class Carried(DiffInstruct):
    """Pools whose images are moved by Diff-Instruct's gradient (eq. 3.2 of arXiv:2305.18455), and a critic beside them.

    Along the score model's ODE a fake rises to noise, along the teacher's it comes down as a sample of the teacher: what the
    gradient does in one small step, done to the end. The critic learns to tell fakes from fakes so carried, by Cor. 3.5 the
    case of Diff-Instruct with all weight at sigma 0. It sees the same latents on both sides, and no data.
    """

    Options = CarriedOptions

    def __init__(
        self, teacher: Denoiser, options: CarriedOptions | None = None, critic: nn.Module | None = None
    ) -> None:
        super().__init__(teacher, options)
        self.carried = options or CarriedOptions()
        self.critic = choose_critic(self.carried.start, critic, teacher.spec, self.carried.critic_width, "carried")

    def carry(self, fake: Images, labels: Labels) -> Images:
        """Fakes as samples of the teacher, within [-1, 1]; deterministic.

        A score model still between teacher and generator carries them too short a way; `overshoot` makes up for it.
        """
        options = self.carried
        carried = carry(self.score_model, self.teacher, fake, labels, options.sigma_max, options.steps)
        return torch.lerp(fake, carried, options.overshoot).clamp(-1, 1)

    def critic_group(self) -> HelperGroup:
        return HelperGroup(list(self.critic.parameters()), self.carried.critic_lr)

    def critic_terms(self, fake: Images, carried: Images, labels: Labels, penalise: bool) -> Terms:
        """The critic's loss, with R1's penalty if `penalise`."""
        gamma = self.carried.r1_gamma if penalise else 0.0
        loss = critic_loss(self.critic, carried, fake.detach(), _given(labels), gamma)
        return Terms(loss, torch.zeros_like(loss), {})

    def fooling_terms(self, fake: Images, labels: Labels) -> Terms:
        """What the generator lowers beside its squared error, already weighted against it."""
        loss = self.carried.critic_weight * fooling_loss(self.critic, fake, _given(labels))
        return Terms(loss, torch.zeros_like(loss), {})


def _given(labels: Labels) -> Labels | None:
    """Labels as discriminators take them."""
    return labels if labels.shape[1] else None
