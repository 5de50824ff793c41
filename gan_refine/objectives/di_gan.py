"""Diff-Instruct, an adversarial loss and Frechet distances together; teacher samples take the place of data."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_refine.config import LEARNING_SAMPLES, RATE, STEPS, Range, require, require_ranges
from gan_refine.errors import OptionError
from gan_refine.features import activation_layers
from gan_refine.foundation import distributed
from gan_refine.interfaces import (
    Denoiser,
    Images,
    ImageSpec,
    Labels,
    Loss,
    Objective,
    ParameterGroup,
    PerSample,
    PixelBytes,
    SampleRequest,
)
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.noise import rng_for
from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.objectives.frechet_loss import (
    IMAGENET_SAMPLES,
    REFERENCE_BATCH,
    ActivationFrechetLoss,
    FrechetLoss,
    ImageNetFrechetLoss,
    PixelFrechetLoss,
)
from gan_refine.objectives.gan_file import GanFile, accepts_images
from gan_refine.objectives.score_model import frozen
from gan_refine.pixels import from_uint8, to_uint8
from gan_refine.sampling import DEFAULT_STEPS, sample_images

R1_GAMMA = 4e-5  # over the squared resolution; StyleGAN2-ADA's presets have 2e-6 to 1.5e-5 there
R1_INTERVAL = 16  # lazy regularization: one step in so many carries the penalty, multiplied by this number
SAMPLE_STREAM, REFERENCE_STREAM = 2001, 2003
SAMPLE_BATCH = 250
CALIBRATION_STEPS = 16  # at the start, over which the sizes of the gradients are compared
WHITENING = 0.1  # of w, where there is a discriminator to judge what the new variety looks like
LEAD = 0.1  # share of the run for which the score model learns alone, before Diff-Instruct acts
SMALLEST_SIZE = 1e-3  # of a gradient at the start, for which it is scaled up
IMAGENET_CHANNELS = (1, 3)
WIDTH = 64  # channels at most, of a new discriminator


@dataclass(frozen=True)
class DiGanOptions:
    """The weights of the five losses, whose gradients at the images have mean squared norm 1 at the start; 0 leaves one out.

    `discriminator` auto is the GAN's own where its file has one for such images; else the adversarial loss is left out, and
    `activations` is at least 1.
    """

    diff_instruct: float = 1.0
    adversarial: float = 1.0
    pixels: float = 0.5  # Frechet distance of pixels
    activations: float = 0.0  # Frechet distance of activations of the teacher's network
    imagenet: float = 3.0  # Frechet distance of ImageNet features, by EfficientNet-Lite1
    start: float = 0.7  # share of the run after which Diff-Instruct acts; from 0 on if there is no discriminator
    score_steps: int | None = None  # of the auxiliary networks; None: 2 with a discriminator, 1 without
    samples: int | None = None  # of the teacher, made before the first step; None: half of the run's images
    steps: int = DEFAULT_STEPS  # calls of the teacher for each sample
    sample_seed: int = 0
    window: int = 2048  # the newest images of the generator, whose moments are compared
    discriminator: Literal["auto", "pickle", "fresh"] = "auto"
    relativistic: bool = True  # the discriminator compares pairs of image and sample; false: StyleGAN2's logistic loss
    discriminator_lr: float = 2e-3
    r1_gamma: float | None = None  # of R1, and of R2 if relativistic; None: R1_GAMMA times the squared resolution

    def __post_init__(self) -> None:
        names = ("diff_instruct", "adversarial", "pixels", "activations", "imagenet")
        require_ranges(self, {name: Range(0, 1e6) for name in (*names, "r1_gamma")})
        require_ranges(self, {"start": Range(0, 1)})
        counts = {"samples": Range(64, 10**7), "window": Range(2, 10**7), "score_steps": Range(1, 10_000)}
        require_ranges(self, {**counts, "steps": STEPS, "sample_seed": Range(0, 10**6), "discriminator_lr": RATE})
        given = any(getattr(self, name) for name in names)
        require("diff_instruct", self.diff_instruct, given, "one of the five weights above 0")


class DiGan(Objective):
    """The sum of up to five losses, each scaled once so that its gradient at the images has the size that its weight says.

    1. Diff-Instruct, eq. 3.2 of arXiv:2305.18455, with its score model.
    2. The relativistic pairing loss against a discriminator of teacher samples and fakes, with R1 and R2 (arXiv:2501.05441, lazily
       as in arXiv:1912.04958). If not relativistic the logistic loss with R1 (arXiv:1801.04406), which by Cor. 3.5 of
       arXiv:2305.18455 is Diff-Instruct's integral with all its weight at sigma 0.
    3. to 5. Frechet distances to the teacher samples, in pixels, in the teacher's activations and in ImageNet features
       (arXiv:2604.28190, with the moments of the newest images in place of an average).
    """

    Options = DiGanOptions
    default_lr = 3e-4
    samples: Tensor  # buffers, so that checkpoints hold them
    sample_labels: Tensor
    # Mean squares of the losses' gradients, [steps, losses]:
    squared_norms: Tensor  # of the first steps with full windows, of all losses but Diff-Instruct
    provisional_norms: Tensor  # those of the last step before
    score_norms: Tensor  # of the first steps in which Diff-Instruct acts
    _weights: Tensor

    def __init__(self, teacher: Denoiser, options: DiGanOptions | None = None, gan: GanFile | None = None) -> None:
        super().__init__()
        self.options, self.gan, self.teacher = options or DiGanOptions(), gan or GanFile(), teacher
        self.wanted_samples = SampleRequest(self.options.samples, self.options.steps, self.options.sample_seed)
        spec = teacher.spec
        self.diff_instruct = DiffInstruct(teacher, DiffInstructOptions()) if self.options.diff_instruct else None
        self.discriminator = _choose_discriminator(self.options, self.gan, spec) if self.options.adversarial else None
        given = self.options.r1_gamma
        self.r1_gamma = R1_GAMMA * spec.resolution**2 if given is None else given
        self.batch_multiple = _group_size(self.discriminator)
        networks = [(self.options.diff_instruct, self.diff_instruct), (self.options.adversarial, self.discriminator)]
        learning = [weight for weight, network in networks if network is not None]
        steps = self.options.score_steps or (1 if self.discriminator is None else 2)
        self.auxiliary_steps = steps if learning else 0
        frechet: list[tuple[float, FrechetLoss]] = [(self.options.pixels, PixelFrechetLoss())]
        if activation_layers(teacher):
            least = 1.0 if self.options.adversarial and self.discriminator is None else 0.0
            frechet.append((max(self.options.activations, least), ActivationFrechetLoss(teacher)))
        if self.options.imagenet and spec.channels in IMAGENET_CHANNELS:
            frechet.append((self.options.imagenet, ImageNetFrechetLoss(spec.resolution)))
        self.frechet = nn.ModuleList(loss for weight, loss in frechet if weight)
        self.weights = [*learning, *(weight for weight, _ in frechet if weight)]
        if not self.weights:
            raise OptionError("di-gan has no loss for this pair: no discriminator, no activations; give pixels=1 to it")
        self.register_buffer("sample_labels", torch.empty([0, spec.num_classes]))
        self.register_buffer(
            "samples", torch.empty([0, spec.channels, spec.resolution, spec.resolution], dtype=torch.uint8)
        )
        self.register_buffer("_weights", torch.tensor(self.weights), persistent=False)
        own = int(self.diff_instruct is not None)
        others = len(self.weights) - own
        for name, losses in {"squared_norms": others, "provisional_norms": others, "score_norms": own}.items():
            self.register_buffer(name, torch.zeros([0, losses]))
        self.done = 0.0  # share of the run
        self.start = 0.0 if self.discriminator is None else self.options.start
        if self.discriminator is None:
            self.default_lr = 5e-4  # Frechet distances alone swing at higher rates
        else:
            self.default_whitening = WHITENING
        if self.diff_instruct is not None and self.start:
            self.phase_starts = tuple(sorted({0.0, max(self.start - LEAD, 0.0), self.start}))
        self.reference_samples: int | None = None  # how many of the samples give the Frechet losses' moments; None: all
        self._pending: list[list[Tensor]] = []  # features of this step's micro-batches, by Frechet loss
        self._norms: list[Tensor] = []  # sums of the squared norms of their gradients, by loss

    def auxiliary_groups(self) -> list[ParameterGroup]:
        own = (
            []
            if self.discriminator is None
            else [ParameterGroup(list(self.discriminator.parameters()), self.options.discriminator_lr)]
        )
        return [*own, *([] if self.diff_instruct is None else self.diff_instruct.auxiliary_groups())]

    def frozen_modules(self) -> list[nn.Module]:
        return [self.teacher, *(each.network for each in self.frechet if isinstance(each, ImageNetFrechetLoss))]

    def preparation(self, samples: int) -> list[tuple[nn.Module, int]]:
        number = min(samples, IMAGENET_SAMPLES)
        return [(each.network, number) for each in self.frechet if isinstance(each, ImageNetFrechetLoss)]

    def leave_out_rare_work(self) -> None:
        self.r1_gamma, self.reference_samples = 0.0, REFERENCE_BATCH

    def notices(self) -> list[str]:
        found = []
        if self.options.adversarial and self.discriminator is None:
            instead = (
                "the teacher's activations are matched instead" if activation_layers(self.teacher) else "it is left out"
            )
            found.append(
                f"The GAN's file has no discriminator for the adversarial loss on this teacher's samples: {instead}."
            )
        if self.options.imagenet and self.teacher.spec.channels not in IMAGENET_CHANNELS:
            found.append(
                f"The loss in ImageNet features takes images of 1 or 3 channels, not {self.teacher.spec.channels}: it is left out."
            )
        return found

    def auxiliary_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """The score model's loss plus the discriminator's. The first windows are filled with the images of the warm-up."""
        self._make_samples()
        if any(len(each.window) for each in self._frechet):
            self._make_references(late=True)
        if not self._windows_are_full:
            with torch.no_grad():
                self._pending.append([each.features(fake, rng) for each in self._frechet])
        losses = []
        if self.diff_instruct is not None and self.done >= self.start - LEAD:
            losses.append(self.diff_instruct.auxiliary_loss(fake, labels, rng))
        if self.discriminator is not None:
            losses.append(self._discriminator_loss(self.discriminator, fake, labels, rng))
        per_sample = torch.stack([loss.per_sample for loss in losses]).sum(dim=0)
        return Loss(per_sample, losses[0].sigma, losses[0].logs)

    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """A surrogate loss whose gradient at the images is the weighted sum of all losses' scaled gradients."""
        self._make_samples()
        images = fake.detach().requires_grad_()
        losses = self._losses(images, labels, rng)
        gradients = [torch.autograd.grad(loss.per_sample.sum(), images)[0] for loss in losses]
        if self._measures:
            self._norms.append(torch.stack([gradient.square().sum() for gradient in gradients]))
        total = sum(
            (scale * gradient for scale, gradient in zip(self._scales(), gradients, strict=True)),
            torch.zeros_like(fake),
        )
        return Loss((total * fake).flatten(1).sum(1), losses[0].sigma, losses[0].logs)

    def _losses(self, images: Images, labels: Labels, rng: torch.Generator) -> list[Loss]:
        """Those that act, in the order of the options."""
        found = []
        if self.diff_instruct is not None and self._acts:
            found.append(self.diff_instruct.generator_loss(images, labels, rng))
        if self.discriminator is not None:
            with frozen(self.discriminator):
                logits = self.discriminator(images, labels if self.teacher.spec.num_classes else None)
                if self.options.relativistic:
                    logits = logits - self.discriminator(*self._paired_samples(labels, rng))
            found.append(_noiseless(F.softplus(-logits).flatten()))
        self._make_references(late=True)
        vectors = [each.features(images, rng) for each in self._frechet]
        self._pending.append([features.detach() for features in vectors])
        for each, features in zip(self._frechet, vectors, strict=True):
            constant = features.detach()
            gradient = each.gradient(constant) if self._windows_are_full else torch.zeros_like(constant)
            found.append(_noiseless((features * gradient).sum(dim=1)))
        return found

    @property
    def _acts(self) -> bool:
        """Whether Diff-Instruct does."""
        return self.diff_instruct is not None and self.done >= self.start

    @property
    def _measures(self) -> bool:
        """Whether a loss is in its first steps, in which the size of its gradient is measured."""
        kept = [self.squared_norms, *([self.score_norms] if self._acts else [])]
        return any(len(norms) < CALIBRATION_STEPS for norms in kept)

    def _scales(self) -> Tensor:
        """The factor of each loss that acts: its weight over its gradient's size at its start; 0 where that is not known yet."""
        known = self.squared_norms if self._windows_are_full else self.provisional_norms
        sizes = [norms.nanmean(dim=0).sqrt() for norms in ([self.score_norms, known] if self._acts else [known])]
        weights = self._weights[-sum(len(size) for size in sizes) :]
        return (weights / torch.cat(sizes).clamp(min=SMALLEST_SIZE)).nan_to_num(nan=0.0)

    def reach(self, done: float) -> None:
        self.done = done

    def auxiliary_stepped(self, images: int) -> None:
        if self.diff_instruct is not None:
            self.diff_instruct.auxiliary_stepped(images)
        self._push()

    def generator_stepped(self, images: int) -> None:
        """The images of the step enter the windows; in the first steps the sizes of the gradients are kept."""
        if self._norms:
            total = distributed.sum_across(torch.stack(self._norms).sum(dim=0)) / images
            total = total.where(total.isfinite(), torch.nan)  # of a step that is skipped; no mean counts it
            total = total[None].to(self.squared_norms)
            own, others = total.split(
                [self.score_norms.shape[1] if self._acts else 0, self.squared_norms.shape[1]], dim=1
            )
            if self._acts:
                self.score_norms = torch.cat([self.score_norms, own])[:CALIBRATION_STEPS]
            if self._windows_are_full:
                self.squared_norms = torch.cat([self.squared_norms, others])[:CALIBRATION_STEPS]
            else:  # the Frechet losses' gradients are still 0
                self.provisional_norms = others
        self._norms = []
        self._push()

    def _push(self) -> None:
        """The features of this step enter the windows, in the order of the global batch."""
        if self._pending:
            for number, each in enumerate(self._frechet):
                each.push(torch.cat([parts[number] for parts in self._pending]), self.options.window)
        self._pending = []

    @property
    def _frechet(self) -> list[FrechetLoss]:
        return [each for each in self.frechet if isinstance(each, FrechetLoss)]

    @property
    def _windows_are_full(self) -> bool:
        return all(len(each.window) >= self.options.window for each in self._frechet)

    def _discriminator_loss(self, network: nn.Module, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """On detached fakes and as many teacher samples."""
        penalized = rng.initial_seed() % R1_INTERVAL == 0  # a seed for each batch, known without asking the device
        gamma = self.r1_gamma if penalized else 0.0
        real, real_labels = self._paired_samples(labels, rng)
        fake_labels = labels if self.teacher.spec.num_classes else None
        relativistic = self.options.relativistic
        return _noiseless(discriminator_loss(network, real, fake, real_labels, fake_labels, gamma, relativistic))

    def _paired_samples(self, labels: Labels, rng: torch.Generator) -> tuple[Images, Labels | None]:
        """A random teacher sample for each label, if relativistic of its class if there is any, and their labels."""
        classes = self.teacher.spec.num_classes
        if classes and self.options.relativistic:
            chances = (labels @ self.sample_labels.T).to(rng.device) + torch.finfo(torch.float32).tiny
            # As torch.multinomial draws, which would wait for the device.
            index = (chances / torch.empty_like(chances).exponential_(generator=rng)).argmax(dim=1)
        else:
            index = torch.randint(len(self.samples), [len(labels)], generator=rng, device=rng.device)
        index = index.to(self.samples.device)
        return from_uint8(self.samples[index]), self.sample_labels[index] if classes else None

    def give_samples(self, images: PixelBytes, labels: Labels) -> None:
        device = self.squared_norms.device
        self.samples, self.sample_labels = images.to(device), labels.to(device)
        self._make_references(late=False)
        if self.reference_samples is not None:  # a measured step finds full windows, as most do
            self._make_references(late=True)
            for each in self._frechet:
                with torch.no_grad():
                    few = each.features(from_uint8(self.samples[: self.reference_samples]), self._reference_rng())
                each.push(few.repeat(math.ceil(self.options.window / len(few)), 1), self.options.window)

    def _make_references(self, late: bool) -> None:
        """Those of the Frechet losses that are not made yet.

        That of ImageNet features is made `late`, before the second step: it takes half a minute on one CPU core.
        """
        missing = [
            each for each in self._frechet if not len(each.mean) and isinstance(each, ImageNetFrechetLoss) is late
        ]
        if not missing:  # as in all steps but the first two
            return
        rng = self._reference_rng()
        for each in missing:
            each.set_reference(self.samples[: self.reference_samples], rng)

    def _reference_rng(self) -> torch.Generator:
        return rng_for(self.options.sample_seed, 0, 0, REFERENCE_STREAM)

    def _make_samples(self) -> None:
        """Where none were given: teacher samples, the same on every process."""
        if len(self.samples):
            return
        count, steps, seed = self.options.samples or LEARNING_SAMPLES, self.options.steps, self.options.sample_seed
        rng = rng_for(seed, 0, 0, SAMPLE_STREAM)
        made = list(sample_images(self.teacher, count, steps, SAMPLE_BATCH, rng, frequencies=self.gan.frequencies))
        self.give_samples(
            torch.cat([to_uint8(images).cpu() for images, _ in made]), torch.cat([labels for _, labels in made])
        )


def _noiseless(per_sample: PerSample) -> Loss:
    return Loss(per_sample, torch.zeros_like(per_sample), {})


def _choose_discriminator(options: DiGanOptions, gan: GanFile, spec: ImageSpec) -> nn.Module | None:
    """The GAN's own discriminator, or a new one; None where `auto` finds none. Raises OptionError."""
    if options.discriminator == "fresh":
        base = WIDTH * 8 * max(spec.resolution // 16, 1)
        return Discriminator(spec.num_classes, spec.resolution, spec.channels, "orig", base, WIDTH)
    given = gan.discriminator()
    problem = None
    if given is None:
        problem = "the GAN's file holds no discriminator"
    elif not accepts_images(given, spec):
        problem = f"the GAN's own discriminator is for images of its full size, the teacher's are {spec}"
    elif getattr(given, "c_dim", 0) and not spec.num_classes:
        problem = "the GAN's own discriminator needs the class of each image, which this teacher's samples do not have"
    if problem is None and given is not None:
        return given.requires_grad_(True)
    if options.discriminator == "pickle":
        raise OptionError(f"{problem}; give discriminator=fresh or discriminator=auto to the objective")
    return None


def _group_size(discriminator: nn.Module | None) -> int:
    """Of the minibatch statistics of a discriminator, 1 without any: it divides the images that it sees at a time."""
    modules = [] if discriminator is None else discriminator.modules()
    sizes = [getattr(module, "group_size", None) for module in modules]
    return math.lcm(*(size for size in sizes if isinstance(size, int) and size > 0))


def discriminator_loss(
    discriminator: nn.Module,
    real: Images,
    fake: Images,
    real_labels: Labels | None,
    fake_labels: Labels | None,
    r1_gamma: float,
    relativistic: bool,
) -> PerSample:
    """softplus(D(fake) - D(real)) with R1 and R2 (arXiv:2501.05441), or softplus(-D(real)) + softplus(D(fake)) with R1.

    The second is the logistic loss of arXiv:1801.04406. No penalty is added if `r1_gamma` is 0.
    """
    real, fake = (images.detach().requires_grad_(r1_gamma > 0) for images in (real, fake))
    real_logits, fake_logits = discriminator(real, real_labels).flatten(), discriminator(fake, fake_labels).flatten()
    if relativistic:
        loss, penalized, logits = F.softplus(fake_logits - real_logits), [real, fake], real_logits + fake_logits
    else:
        loss, penalized, logits = F.softplus(-real_logits) + F.softplus(fake_logits), [real], real_logits
    if r1_gamma > 0:
        gradients = torch.autograd.grad(logits.sum(), penalized, create_graph=True)
        penalty = torch.stack([gradient.square().flatten(1).sum(1) for gradient in gradients]).sum(dim=0)
        loss = loss + r1_gamma / 2 * R1_INTERVAL * penalty
    return loss
