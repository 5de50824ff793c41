"""Adversarial training on the teacher's own samples, alone or together with Diff-Instruct: still without any data. Experimental."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from gan_refine.config import RATE, SEED, Range, require_ranges
from gan_refine.errors import OptionError
from gan_refine.interfaces import Denoiser, Images, ImageSpec, Labels, Loss, Objective, ParameterGroup, PerSample
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.noise import rng_for
from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.objectives.gan_file import GanFile, accepts_images
from gan_refine.objectives.score_model import frozen
from gan_refine.sampling import DEFAULT_STEPS, sample_images

R1_INTERVAL = 16  # lazy regularization: one step in so many carries the penalty, multiplied by this number
SAMPLE_STREAM = 2001
SAMPLE_BATCH = 256


@dataclass(frozen=True)
class AdversarialOptions:
    """`push` weighs Diff-Instruct's gradient against the adversarial one; 0 leaves it and its score model out."""

    start: Literal["pickle", "fresh"] = "pickle"  # the GAN's own discriminator, or a new one
    push: float = 0.0
    weighting: Literal["sigma2", "dmd"] = "sigma2"  # of Diff-Instruct's gradient
    samples: int = 4096  # teacher samples, made once before the first step
    sample_seed: int = 0
    steps: int = DEFAULT_STEPS  # of the teacher's sampler
    r1_gamma: float = 0.1
    discriminator_lr: float = 2.5e-3
    discriminator_width: int = 64  # channels at most, of a new discriminator
    discriminator_steps: int = 1  # for each step of the generator

    def __post_init__(self) -> None:
        weights = {name: Range(0, 1e6) for name in ("push", "r1_gamma")}
        counts = {"samples": Range(1, 10**7), "steps": Range(1, 10_000), "sample_seed": SEED}
        counts |= {"discriminator_width": Range(1, 4096), "discriminator_steps": Range(1, 10_000)}
        require_ranges(self, {**weights, **counts, "discriminator_lr": RATE})


class Adversarial(Objective):
    """Non-saturating logistic loss against a discriminator that tells fakes from teacher samples, plus `push` times Diff-Instruct.

    By Cor. 3.5 of arXiv:2305.18455 the adversarial part is Diff-Instruct's integral with all its weight at sigma 0; an endless
    source of teacher samples takes the place of data. R1 as in arXiv:1801.04406, lazily as in arXiv:1912.04958.
    """

    Options = AdversarialOptions
    samples: torch.Tensor  # buffers, so that checkpoints hold them
    sample_labels: torch.Tensor

    def __init__(
        self, teacher: Denoiser, options: AdversarialOptions | None = None, gan: GanFile | None = None
    ) -> None:
        super().__init__()
        self.options, self.gan, self.teacher = options or AdversarialOptions(), gan or GanFile(), teacher
        self.auxiliary_steps = self.options.discriminator_steps
        self.discriminator = _choose_discriminator(self.options, self.gan, teacher.spec)
        self.diff_instruct: DiffInstruct | None = None
        if self.options.push:
            self.diff_instruct = DiffInstruct(teacher, DiffInstructOptions(weighting=self.options.weighting))
        spec = teacher.spec
        self.register_buffer("sample_labels", torch.empty([0, spec.num_classes]))
        self.register_buffer("samples", torch.empty([0, spec.channels, spec.resolution, spec.resolution]))

    def auxiliary_groups(self) -> list[ParameterGroup]:
        own = ParameterGroup(list(self.discriminator.parameters()), self.options.discriminator_lr)
        return [own, *(self.diff_instruct.auxiliary_groups() if self.diff_instruct else [])]

    def auxiliary_stepped(self, images: int) -> None:
        if self.diff_instruct is not None:
            self.diff_instruct.auxiliary_stepped(images)

    def frozen_modules(self) -> list[nn.Module]:
        return [self.teacher]

    def auxiliary_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """The discriminator's loss on detached fakes and as many teacher samples, and the score model's if there is one."""
        self._make_samples()
        index = torch.randint(len(self.samples), [len(fake)], generator=rng, device=rng.device)
        penalized = bool(torch.randint(R1_INTERVAL, [], generator=rng, device=rng.device) == 0)
        conditional = bool(self.teacher.spec.num_classes)
        fake_labels, real_labels = (labels, self.sample_labels[index]) if conditional else (None, None)
        gamma = self.options.r1_gamma if penalized else 0.0
        loss = discriminator_loss(self.discriminator, self.samples[index], fake, real_labels, fake_labels, gamma)
        if self.diff_instruct is None:
            return Loss(loss, torch.zeros_like(loss), {})
        score = self.diff_instruct.auxiliary_loss(fake, labels, rng)
        return Loss(loss + score.per_sample, score.sigma, score.logs)

    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """softplus(-logit) for each fake, plus `push` times Diff-Instruct's loss."""
        with frozen(self.discriminator):
            logits = self.discriminator(fake, labels if self.teacher.spec.num_classes else None)
        loss = F.softplus(-logits).flatten()
        if self.diff_instruct is None:
            return Loss(loss, torch.zeros_like(loss), {})
        score = self.diff_instruct.generator_loss(fake, labels, rng)
        return Loss(loss + self.options.push * score.per_sample, score.sigma, score.logs)

    def _make_samples(self) -> None:
        """Teacher samples, unless they are there; the same on every process."""
        total, images, labels = self.options.samples, [], []
        if len(self.samples) == total:
            return
        rng = rng_for(self.options.sample_seed, 0, 0, SAMPLE_STREAM)
        chosen = self.options.steps, SAMPLE_BATCH, rng
        for made, classes in sample_images(self.teacher, total, *chosen, frequencies=self.gan.frequencies):
            # As bytes, as data is: the sampler's residue on flat ground would give every sample away.
            images.append((made * 127.5 + 128).clamp(0, 255).floor() / 127.5 - 1)
            labels.append(classes)
        self.samples, self.sample_labels = torch.cat(images), torch.cat(labels)


def _choose_discriminator(options: AdversarialOptions, gan: GanFile, spec: ImageSpec) -> nn.Module:
    """The GAN's own discriminator, or a new one. Raises OptionError where the GAN's cannot be used."""
    if options.start == "fresh":
        width = options.discriminator_width
        base = width * 8 * max(spec.resolution // 16, 1)
        return Discriminator(spec.num_classes, spec.resolution, spec.channels, "orig", base, width)
    given, way_out = gan.discriminator(), "give --objective=adversarial,start=fresh or --objective=diff-instruct"
    if given is None:
        raise OptionError(f"the GAN's file holds no discriminator; {way_out}")
    if not accepts_images(given, spec):
        raise OptionError(
            f"the GAN's own discriminator is for images of its full size, the teacher's are {spec}; {way_out}"
        )
    if getattr(given, "c_dim", 0) and not spec.num_classes:
        raise OptionError(
            "the GAN's own discriminator needs the class of each image, which samples of a teacher without classes do not have; "
            "give --objective=adversarial,start=fresh"
        )
    return given.requires_grad_(True)


def discriminator_loss(
    discriminator: nn.Module,
    real: Images,
    fake: Images,
    real_labels: Labels | None,
    fake_labels: Labels | None,
    r1_gamma: float,
) -> PerSample:
    """softplus(-real) + softplus(fake), and R1's penalty at the real images unless `r1_gamma` is 0 (arXiv:1801.04406, eq. 9)."""
    real = real.detach().requires_grad_(r1_gamma > 0)
    logits = discriminator(real, real_labels)
    loss = F.softplus(-logits).flatten() + F.softplus(discriminator(fake, fake_labels)).flatten()
    if r1_gamma > 0:
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        loss = loss + r1_gamma / 2 * R1_INTERVAL * gradient.square().flatten(1).sum(1)
    return loss
