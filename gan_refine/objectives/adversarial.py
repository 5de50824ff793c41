"""Diff-Instruct together with an adversarial term on the teacher's own samples: still without any data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.errors import OptionError
from gan_refine.interfaces import Denoiser, HelperGroup, Images, Labels, Terms
from gan_refine.labels import Frequencies
from gan_refine.objectives.critics import R1_INTERVAL, choose_critic, critic_loss, fooling_loss
from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.sampling import sample_images


@dataclass(frozen=True)
class AdversarialOptions:
    """`push` weighs Diff-Instruct's gradient against the adversarial one; 0 leaves it and its score model out."""

    start: Literal["pickle", "fresh"] = "pickle"  # the GAN's own discriminator, or a new one
    push: float = 0.0
    weight: Literal["sigma2", "dmd"] = "sigma2"  # of Diff-Instruct's gradient
    samples: int = 4096  # teacher samples, made once at the start
    steps: int = 14  # of the teacher's sampler
    r1_gamma: float = 0.1
    discriminator_lr: float = 2.5e-3
    discriminator_width: int = 64  # channels at most, of a fresh one
    discriminator_steps: int = 1  # for each step of the generator

    def __post_init__(self) -> None:
        for name in ("push", "r1_gamma", "discriminator_lr"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "a number of at least 0")
        for name in ("samples", "steps", "discriminator_width", "discriminator_steps"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "a number of at least 1")


class Adversarial(nn.Module):
    """Non-saturating logistic loss against a discriminator that tells fakes from teacher samples, plus `push` Diff-Instruct.

    By Cor. 3.5 of arXiv:2305.18455 the adversarial part is Diff-Instruct's integral with all its weight at sigma 0; an endless
    source of teacher samples takes the place of data. R1 as in arXiv:1801.04406, lazily as in arXiv:1912.04958.
    """

    Options = AdversarialOptions

    def __init__(
        self,
        teacher: Denoiser,
        options: AdversarialOptions | None = None,
        critic: nn.Module | None = None,
        frequencies: Frequencies | None = None,
    ) -> None:
        super().__init__()
        self.options = options or AdversarialOptions()
        self.frequencies = frequencies
        self.teacher = teacher
        self.helper_steps = self.options.discriminator_steps
        spec = teacher.spec
        self.discriminator = choose_critic(
            self.options.start, critic, spec, self.options.discriminator_width, "adversarial"
        )
        self.diff_instruct: DiffInstruct | None = None
        if self.options.push:
            self.diff_instruct = DiffInstruct(teacher, DiffInstructOptions(weight=self.options.weight))
        if getattr(self.discriminator, "c_dim", 0) and not spec.num_classes:
            raise OptionError(
                "the GAN's own discriminator judges images by their class, which the samples of a teacher without classes "
                "have not; give --objective=adversarial,start=fresh"
            )
        # Buffers, so that checkpoints hold them.
        self.samples: torch.Tensor
        self.sample_labels: torch.Tensor
        self.register_buffer("sample_labels", torch.empty([0, spec.num_classes]))
        self.register_buffer("samples", torch.empty([0, spec.channels, spec.resolution, spec.resolution]))

    def prepare(self, rng: torch.Generator) -> Iterator[tuple[int, int]]:
        """Makes the teacher samples unless they are there; yields (done, in all) after every batch."""
        total, parts, all_labels, done = self.options.samples, [], [], 0
        if len(self.samples) == total:
            return
        for images, labels in sample_images(
            self.teacher, total, self.options.steps, batch=256, rng=rng, frequencies=self.frequencies
        ):
            all_labels.append(labels)
            # As bytes, as data is: what the sampler leaves on a flat ground would give every sample away.
            parts.append((images * 127.5 + 128).clamp(0, 255).floor() / 127.5 - 1)
            done += len(images)
            yield done, total
        self.samples, self.sample_labels = torch.cat(parts), torch.cat(all_labels)

    def helper_groups(self) -> list[HelperGroup]:
        own = HelperGroup(list(self.discriminator.parameters()), self.options.discriminator_lr)
        return [own, *(self.diff_instruct.helper_groups() if self.diff_instruct else [])]

    def helper_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        """The discriminator's loss on detached fakes and as many teacher samples, and the score model's if there is one."""
        index = torch.randint(len(self.samples), [len(fake)], generator=rng)
        real = self.samples[index]
        penalise = bool(torch.randint(R1_INTERVAL, [], generator=rng) == 0)
        given = labels if self.teacher.spec.num_classes else None
        real_labels = None if given is None else self.sample_labels[index]
        gamma = self.options.r1_gamma if penalise else 0.0
        loss = critic_loss(self.discriminator, real, fake, given, gamma, real_labels)
        if self.diff_instruct is None:
            return Terms(loss, torch.zeros_like(loss), {})
        terms = self.diff_instruct.helper_terms(fake, labels, rng)
        return Terms(loss + terms.loss, terms.sigma, terms.logs)

    def generator_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        """softplus(-logit) for each fake, plus `push` times Diff-Instruct's loss."""
        given = labels if self.teacher.spec.num_classes else None
        loss = fooling_loss(self.discriminator, fake, given)
        if self.diff_instruct is None:
            return Terms(loss, torch.zeros_like(loss), {})
        terms = self.diff_instruct.generator_terms(fake, labels, rng)
        return Terms(loss + self.options.push * terms.loss, terms.sigma, terms.logs)
