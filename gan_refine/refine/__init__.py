"""The method: alternate steps of the objective's helpers and of the generator. Prints nothing, writes nothing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from gan_refine.config import RefineOptions
from gan_refine.ema import WeightAverage
from gan_refine.interfaces import Generator, Images, Latents, Objective, Terms
from gan_refine.noise import rng_for

# Bounds of the bands of sigma in which health is reported, about one unit of ln sigma each.
SIGMA_BANDS = (0.02, 0.06, 0.18, 0.54, 1.6, 5.0, 15.0, 80.0)


# Apart from the streams of the steps, which are 0 for the generator and 1, 2, ... for the helpers.
WARMUP_STREAM, PREPARE_STREAM, POOL_STREAM = 2000, 2001, 2002

Pool = list[tuple[Latents, Images]]  # micro-batches: latents and the images that the generator shall make of them


@dataclass
class Health:
    """Means since the last report: by band of sigma for each figure, gradient norms, and what was not finite."""

    sums: dict[str, np.ndarray] = field(default_factory=dict)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(len(SIGMA_BANDS) - 1))
    norms: dict[str, list[float]] = field(default_factory=lambda: {"generator": [], "helper": []})
    samples: int = 0
    nonfinite_samples: int = 0
    skipped_steps: int = 0

    def add(self, terms: Terms) -> None:
        """Counts one micro-batch of the generator's terms."""
        self.samples += len(terms.loss)
        self.nonfinite_samples += int((~terms.loss.detach().isfinite()).sum())
        band = np.digitize(terms.sigma.detach().cpu().numpy(), SIGMA_BANDS) - 1
        inside = (band >= 0) & (band < len(self.counts))
        np.add.at(self.counts, band[inside], 1)
        for name, values in terms.logs.items():
            total = self.sums.setdefault(name, np.zeros(len(self.counts)))
            np.add.at(total, band[inside], values.detach().double().cpu().numpy()[inside])

    def bands(self, name: str) -> list[float | None]:
        """Mean of a figure in each band; None where no sample fell."""
        totals = self.sums[name]
        return [float(s / n) if n else None for s, n in zip(totals, self.counts, strict=True)]

    def remaining_nats(self) -> float | None:
        """Estimate of KL(generator || teacher) over the bands seen, in nats an image; None without a score model.

        The integral of sigma |s_g - s_d|^2 over sigma is that of |D_g - D_d|^2 / sigma^2 over ln sigma. It needs no data, and
        is only as good as the score model.
        """
        if "nats" not in self.sums:
            return None
        widths = np.diff(np.log(SIGMA_BANDS))
        return float(sum(w * mean for w, mean in zip(widths, self.bands("nats"), strict=True) if mean is not None))

    def summary(self) -> dict[str, object]:
        """Everything, as plain numbers for a JSON record."""
        record: dict[str, object] = {name: self.bands(name) for name in sorted(self.sums)}
        record["remaining_nats"] = self.remaining_nats()
        record["nonfinite_share"] = self.nonfinite_samples / max(self.samples, 1)
        record["skipped_steps"] = self.skipped_steps
        for name, values in self.norms.items():
            record[f"{name}_gradient_norm"] = float(np.mean(values)) if values else None
        return record


@dataclass(frozen=True)
class Progress:
    """State after a tick. `average` is the smoothed generator: what is evaluated and exported."""

    images: int
    generator: Generator
    average: Generator
    health: Health
    glr: float


def lr_factor(done: float, rampup_share: float, decay_share: float) -> float:
    """A straight rise over the first `rampup_share` of the run, 1, a cosine to 0 over the last `decay_share`; `done` is in [0, 1].

    Adam's first steps have full size whatever the gradient: without the rise they throw a trained network off its place.
    """
    rise = min(done / rampup_share, 1.0) if rampup_share else 1.0
    if done <= 1 - decay_share or decay_share == 0:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * (done - (1 - decay_share)) / decay_share))


def refine(generator: Generator, objective: Objective, options: RefineOptions, rank: int = 0) -> Iterator[Progress]:
    """Trains `generator` in place and yields after every tick of about `tick_images`, and at the end.

    First the helpers alone learn for `warmup_images`, since a score model equal to the teacher has nothing to say. Then the
    generator learns a pool of its own images moved along the objective's gradient (see `make_pool`), and so on; or, with
    `pool_images` 0, helpers and generator take turns on fresh batches (Algorithm 1 of arXiv:2305.18455).
    Opens no data set and no file. Parameters of the generator and of the objective's helpers are moved by Adam; a step whose
    gradient is not finite is skipped and counted in the health record.
    """
    assert isinstance(generator, nn.Module), "generators are torch modules"
    average = WeightAverage(generator, options.ema_halflife_images, options.ema_rampup)
    betas = (options.beta1, options.beta2)
    opt_g = torch.optim.Adam(generator.parameters(), lr=options.glr, betas=betas)
    groups = objective.helper_groups()
    opt_h = torch.optim.Adam([{"params": group.parameters} for group in groups], betas=betas) if groups else None
    helper_rates = [options.score_lr if group.lr is None else group.lr for group in groups]
    for _ in objective.prepare(rng_for(options.seed, rank, 0, PREPARE_STREAM)):
        pass
    health, images, last_tick = Health(), 0, 0
    _warm_up(generator, objective, options, opt_h, helper_rates, first=(rank, 0))
    pool: Pool = []
    pool_life = math.ceil(options.pool_images / options.batch) * options.batch * options.pool_epochs
    while images < options.total_images:
        factor = lr_factor((images + options.batch) / options.total_images, options.lr_rampup, options.lr_decay)
        if options.pool_images:
            if images % pool_life == 0:
                if images:
                    _warm_up(generator, objective, options, opt_h, helper_rates, first=(rank, images))
                pool = make_pool(
                    generator, objective, options, rng_for(options.seed, rank, images, POOL_STREAM), health
                )
            _pool_gradient(generator, pool, images // options.batch, options)
        else:
            for helper_step in range(objective.helper_steps):
                assert opt_h is not None, "an objective with helper steps has helper parameters"
                rng = rng_for(options.seed, rank, images, 1 + helper_step)
                _helper_gradient(generator, objective, options, rng)
                _apply(opt_h, [rate * factor for rate in helper_rates], health, "helper")
            _generator_gradient(generator, objective, options, rng_for(options.seed, rank, images, 0), health)
        _apply(opt_g, [options.glr * factor], health, "generator")
        images += options.batch
        average.update(generator, images, options.batch)
        if images - last_tick >= options.tick_images or images >= options.total_images:
            yield Progress(images, generator, average.module, health, options.glr * factor)
            health, last_tick = Health(), images


def _warm_up(
    generator: Generator,
    objective: Objective,
    options: RefineOptions,
    optimizer: torch.optim.Optimizer | None,
    rates: list[float],
    first: tuple[int, int],
) -> None:
    """The helpers alone learn from `warmup_images` fakes, drawn by rank and images seen; without helpers nothing happens."""
    health = Health()
    for warm in range(0, options.warmup_images if optimizer else 0, options.batch):
        assert optimizer is not None, "an objective without helpers has nothing to warm up"
        rng = rng_for(options.seed, first[0], first[1] + warm, WARMUP_STREAM)
        _helper_gradient(generator, objective, options, rng)
        left = 0.5 * (1 + math.cos(math.pi * warm / options.warmup_images))
        boost = 1 + left * (options.warmup_boost - 1)
        _apply(optimizer, [rate * boost for rate in rates], health, "helper")


def make_pool(
    generator: Generator, objective: Objective, options: RefineOptions, rng: torch.Generator, health: Health
) -> Pool:
    """At least `pool_images` latents with the generator's images of them, moved against the objective's gradient.

    The gradient is a mean over `pool_draws` draws of noise: one draw is mostly noise, and weights that follow it wander.
    Learning the moved images by squared error takes many steps along the same gradient, for the price of one.
    """
    pool: Pool = []
    for _ in range(0, options.pool_images, options.batch):
        for latents in generator.draw(options.batch, rng).split(options.batch_gpu):
            fake = generator(latents).detach().requires_grad_()
            for _ in range(options.pool_draws):
                terms = objective.generator_terms(fake, latents.labels, rng)
                (terms.loss.sum() / options.pool_draws).backward()
                health.add(terms)
            assert fake.grad is not None, "the objective's loss depends on the images"
            pool.append((latents, fake.detach() - options.pool_step * fake.grad))
    return pool


def _pool_gradient(generator: Generator, pool: Pool, step: int, options: RefineOptions) -> None:
    """Adds the gradient of the squared error to one batch of the pool, in turn."""
    parts = options.batch // options.batch_gpu
    first = step * parts % len(pool)
    for latents, target in pool[first : first + parts]:
        error = (generator(latents) - target).square().flatten(1).sum(1)
        (error.sum() / options.batch).backward()


def _helper_gradient(generator: Generator, objective: Objective, options: RefineOptions, rng: torch.Generator) -> None:
    """Adds the mean gradient over one batch of fresh fakes to the helpers' parameters."""
    for latents in generator.draw(options.batch, rng).split(options.batch_gpu):
        with torch.no_grad():
            fake = generator(latents)
        terms = objective.helper_terms(fake, latents.labels, rng)
        assert terms is not None, "an objective with helper steps has helper terms"
        (terms.loss.sum() / options.batch).backward()


def _generator_gradient(
    generator: Generator, objective: Objective, options: RefineOptions, rng: torch.Generator, health: Health
) -> None:
    """Adds the mean gradient over one batch to the generator's parameters and its figures to `health`."""
    for latents in generator.draw(options.batch, rng).split(options.batch_gpu):
        fake = generator(latents)
        terms = objective.generator_terms(fake, latents.labels, rng)
        (terms.loss.sum() / options.batch).backward()
        health.add(terms)


def _apply(optimizer: torch.optim.Optimizer, rates: list[float], health: Health, name: str) -> None:
    """One update from the accumulated gradients, unless they are not finite; then forgets them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        health.norms[name].append(norm)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
    else:
        health.skipped_steps += 1
    optimizer.zero_grad(set_to_none=True)
