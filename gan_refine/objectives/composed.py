"""An objective as a composition: (law of sigma) x (weight) x (form of the gradient) x (schedule of the score model)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.errors import OptionError
from gan_refine.interfaces import AugmentedDenoiser, Denoiser, HelperGroup, Images, Labels, Sigma, Terms
from gan_refine.noise import LogNormal, SigmaLaw, add_noise
from gan_refine.objectives.augment import NUM_LABELS, augment
from gan_refine.objectives.critics import frozen
from gan_refine.objectives.parts import Divisor, Form, LawOptions, Look
from gan_refine.objectives.score_model import ScoreAverage, denoising_loss, train_only
from torch_utils import distributed


@dataclass(frozen=True)
class Recipe:
    """What a preset makes of its options for the generator's step."""

    law: SigmaLaw
    divisor: Divisor
    form: Form


@runtime_checkable
class Preset(Protocol):
    """Options that know their recipe."""

    def recipe(self) -> Recipe: ...


class Composed(nn.Module):
    """An objective without helpers, from the recipe of its options; presets are subclasses that name their options."""

    Options: type[Preset]

    def __init__(self, teacher: Denoiser, options: Preset | None = None) -> None:
        super().__init__()
        self.options = options or self.Options()
        self.recipe = self.options.recipe()
        self.teacher = teacher
        self.helper_steps = 0

    def prepare(self, rng: torch.Generator) -> Iterator[tuple[int, int]]:
        """Nothing to make beforehand."""
        yield from ()

    def helper_groups(self) -> list[HelperGroup]:
        return []

    def helper_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms | None:
        return None

    def generator_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        """A loss whose gradient at each fake is the form's, and the run's health as logs (see `Look.figures`)."""
        through = self.recipe.form.through_networks
        with torch.set_grad_enabled(through and torch.is_grad_enabled()):
            sigma = self._sample(self.recipe.law, fake, rng)
            noisy = add_noise(fake if through else fake.detach(), sigma, rng)
            look = self._look(fake, noisy, sigma, labels)
        loss = self.recipe.form.loss(look, self.recipe.divisor(look))
        return Terms(loss, sigma.flatten(), look.figures())

    def _look(self, fake: Images, noisy: Images, sigma: Sigma, labels: Labels) -> Look:
        return Look(fake, sigma, self.teacher(noisy, sigma, labels))

    def _sample(self, law: SigmaLaw, like: Images, rng: torch.Generator) -> Sigma:
        low, high = self.teacher.sigma_range
        return law.sample(len(like), rng, like.device).clamp(low, high)


@dataclass(frozen=True)
class ScoreOptions(LawOptions):
    """Beside the generator's law of sigma: how the score model is trained."""

    score_steps: int = 1  # steps of the score model for each step of the generator
    score_ema: int = 0  # half-life in images of the average that the generator sees; 0 shows it the score model itself
    score_train: Literal["all", "encoder", "decoder"] = "all"  # what of the score model learns
    augment: float = 0.0  # probability of each move of the score model's fakes, which it is told of

    def __post_init__(self) -> None:
        super().__post_init__()
        require("score_steps", self.score_steps, self.score_steps > 0, "a positive number")
        require("score_ema", self.score_ema, self.score_ema >= 0, "a number of images of at least 0")
        require("augment", self.augment, 0 <= self.augment <= 1, "a probability")

    def recipe(self) -> Recipe:
        raise NotImplementedError("presets say what they make of these options")


class Scored(Composed):
    """A composition with a score model D_g, which starts as a copy of the teacher D_d: then every gradient is exactly zero."""

    Options: type[ScoreOptions]

    def __init__(self, teacher: Denoiser, options: ScoreOptions | None = None) -> None:
        super().__init__(teacher, options)
        self.schedule = options or self.Options()
        self.helper_steps = self.schedule.score_steps
        check_augmentable(teacher, self.schedule.augment)
        self.score_model = teacher.trainable_copy()
        self._learning = train_only(self.score_model, self.schedule.score_train)
        self.average = ScoreAverage(self.score_model, self.schedule.score_ema) if self.schedule.score_ema else None

    def helper_groups(self) -> list[HelperGroup]:
        return [HelperGroup(self._learning)]

    def helper_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        """Denoising score matching of the score model on detached fakes, eq. 3.1 of arXiv:2305.18455."""
        if self.average is not None:
            self.average.note(self.score_model, len(fake) * distributed.get_world_size())  # every process has as many
        sigma = self._sample(LogNormal(), fake, rng)
        moved = augment(fake, self.schedule.augment, rng) if self.schedule.augment else None
        clean = fake if moved is None else moved.images
        noisy = add_noise(clean, sigma, rng)
        if self.schedule.score_train != "all":
            # torch 2.13 crashes in the backward pass of a group norm on the CPU whose weights learn and whose input does not.
            noisy.requires_grad_()
        if moved is None:
            denoised = self.score_model(noisy, sigma, labels)
        else:
            assert isinstance(self.score_model, AugmentedDenoiser), "check_augmentable says so"
            denoised = self.score_model.denoise_augmented(noisy, sigma, labels, moved.labels)
        return Terms(denoising_loss(denoised, clean, sigma), sigma.flatten(), {})

    def _look(self, fake: Images, noisy: Images, sigma: Sigma, labels: Labels) -> Look:
        score_model = self.score_model if self.average is None else self.average.current(self.score_model)
        # A view each: gradients of equal networks then meet as two whole sums, which cancel to the last bit.
        teacher = self.teacher(noisy.view_as(noisy), sigma, labels)
        with frozen(score_model):
            return Look(fake, sigma, teacher, score_model(noisy.view_as(noisy), sigma, labels))


def check_augmentable(teacher: Denoiser, probability: float) -> None:
    """Raises OptionError when augmentation is asked for and the teacher does not know EDM's labels."""
    known = teacher.augment_dim if isinstance(teacher, AugmentedDenoiser) else 0
    if probability and known != NUM_LABELS:
        raise OptionError(
            f"augment={probability:g} needs a teacher trained with EDM's {NUM_LABELS} augmentation labels, and this one "
            f"knows {known}; leave augment out"
        )
