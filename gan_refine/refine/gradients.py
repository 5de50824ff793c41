"""One batch's gradient: of the helpers, of the generator, and towards a pool of moved images.

Each process computes the micro-batches that are its share. The noise of one depends on its number within the global batch
and not on who computes it, so that the same batch comes about on any number of processes.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from gan_refine.interfaces import (
    AnchoredGenerator,
    Images,
    Latents,
    PairedObjective,
    PerceivingObjective,
    PerSample,
    Terms,
)
from gan_refine.noise import rng_for
from gan_refine.refine.state import Part, RefineState, Trouble
from torch_utils import distributed

# Apart from the streams of the steps, which are 0 for the generator and 1, 2, ... for the helpers.
WARMUP_STREAM, PREPARE_STREAM, POOL_STREAM = 2000, 2001, 2002

PENALTY_INTERVAL = 16  # steps of a critic between two that carry its penalty (lazy regularisation, arXiv:1912.04958)


def micro_batches(state: RefineState, images: int, stream: int) -> Iterator[tuple[Latents, torch.Generator]]:
    """This process's share of one global batch: latents, which do not depend on --batch-gpu, and the noise of each part."""
    rng = rng_for(state.options.seed, 0, images, stream)
    latents = state.generator.draw(state.options.batch, rng).split(state.options.batch_gpu)
    for number in state.parts:
        yield latents[number], rng if number == 0 else rng_for(state.options.seed, number, images, stream)


def helper_gradient(state: RefineState, images: int, stream: int) -> None:
    """Adds the mean gradient over one batch of fresh fakes to the helpers' parameters."""
    for latents, rng in micro_batches(state, images, stream):
        with torch.no_grad():
            fake = state.generator(latents)
        terms = state.objective.helper_terms(fake, latents.labels, rng)
        assert terms is not None, "an objective with helper steps has helper terms"
        (terms.loss.sum() / state.options.batch).backward()
        watch(state, "helper", terms, images, stream)


def generator_gradient(state: RefineState, images: int, stream: int) -> None:
    """Adds the mean gradient over one batch to the generator's parameters and its figures to the health record."""
    for latents, rng in micro_batches(state, images, stream):
        fake, anchor = _made(state, latents)
        terms = state.objective.generator_terms(fake, latents.labels, rng)
        terms = replace(terms, loss=terms.loss + anchor)
        (terms.loss.sum() / state.options.batch).backward()
        state.health.add(terms)
        watch(state, "generator", terms, images, stream)


def _made(state: RefineState, latents: Latents) -> tuple[Images, PerSample | float]:
    """The generator's images, and the loss that holds them: that which it brings along, and the pull to the original's."""
    if isinstance(state.generator, AnchoredGenerator):
        images, anchor = state.generator.anchored(latents)
        return images, anchor + state.pulls.images_error(images, latents)
    images = state.generator(latents)
    return images, state.pulls.images_error(images, latents)


def pool_batch(state: RefineState, images: int) -> list[Part]:
    """One batch of the generator's images moved against the objective's gradient, with their latents.

    They move `pool_moves` times, each time along the gradient of one draw of noise at where the move before has left them:
    steps of Euler's method along Diff-Instruct's flow (eq. 3.2 of arXiv:2305.18455) in the space of images. One draw is mostly
    noise, and weights that follow it wander; learning the moved images by squared error takes many steps for the price of one.
    """
    batch: list[Part] = []
    for latents, rng in micro_batches(state, images, POOL_STREAM):
        own = Latents(latents.z.clone(), latents.labels.clone(), latents.noise_seed)
        batch.append(Part(own, _moved(state, own, rng, images), _carried(state, own)))
    return batch


def _carried(state: RefineState, latents: Latents) -> Images | None:
    if not isinstance(state.objective, PairedObjective):
        return None
    with torch.no_grad():
        return state.objective.carry(state.generator(latents), latents.labels).contiguous()


def _moved(state: RefineState, latents: Latents, rng: torch.Generator, images: int) -> Images:
    moved, step = state.generator(latents).detach(), state.pool_step / state.options.pool_moves
    for _ in range(state.options.pool_moves):
        moved.requires_grad_()
        terms = state.objective.generator_terms(moved, latents.labels, rng)
        (gradient,) = torch.autograd.grad(terms.loss.sum(), moved)
        moved = moved.detach() - step * gradient
        state.health.add(terms)
        watch(state, "generator", terms, images, POOL_STREAM)
    # Contiguous, as it comes back from a checkpoint: the order of sums may depend on the layout.
    return moved.contiguous()


def towards_pool(state: RefineState, batch: list[Part]) -> list[Images]:
    """Adds the gradient of the distance to one batch of the pool, and of fooling a critic if there is one.

    Returns the generator's images of each part, detached.
    """
    fakes: list[Images] = []
    for part in batch:
        fake, anchor = _made(state, part.latents)
        error = _difference(state, fake, part.target) + anchor
        if isinstance(state.objective, PairedObjective):
            terms = state.objective.fooling_terms(fake, part.latents.labels)
            watch(state, "generator", terms, state.images, POOL_STREAM)
            error = error + terms.loss
        (error.sum() / state.options.batch).backward()
        fakes.append(fake.detach())
    return fakes


def _difference(state: RefineState, fake: Images, target: Images) -> PerSample:
    """Squared error, unless the objective knows a better distance."""
    if isinstance(state.objective, PerceivingObjective):
        return state.objective.difference(fake, target)
    return (fake - target).square().flatten(1).sum(1)


def critic_gradient(state: RefineState, batch: list[Part], fakes: list[Images]) -> None:
    """Adds the critic's gradient on one batch of the pool, with a penalty every `PENALTY_INTERVAL` steps."""
    assert isinstance(state.objective, PairedObjective), "asked for only with a critic"
    penalise = state.images // state.options.batch % PENALTY_INTERVAL == 0
    for part, fake in zip(batch, fakes, strict=True):
        assert part.carried is not None, "pools of objectives with a critic hold carried images"
        terms = state.objective.critic_terms(fake, part.carried, part.latents.labels, penalise)
        (terms.loss.sum() / state.options.batch).backward()
        watch(state, "critic", terms, state.images, POOL_STREAM)


def watch(state: RefineState, network: str, terms: Terms, images: int, stream: int) -> None:
    """Remembers a batch with a loss that is not finite, for the diagnosis."""
    broken = ~terms.loss.detach().isfinite()
    if bool(broken.any()):
        state.trouble = Trouble(network, images, stream, terms.sigma.detach()[broken].tolist())


def apply(state: RefineState, name: str, rates: list[float]) -> None:
    """One update of the generator or the helpers from the gradients of all processes; then forgets them.

    A gradient that is not finite is not applied, but counted.
    """
    optimizer = state.optimizers[name]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    distributed.sum_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if math.isfinite(norm):
        state.skips[name] = 0
        state.health.norms[name].append(norm)
        if state.options.clip_grad and norm > state.options.clip_grad:
            torch._foreach_mul_(gradients, state.options.clip_grad / norm)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.step()
        if name == "generator":
            state.pulls.draw_back(optimizer)
    else:
        state.skips[name] += 1
        state.health.skipped_steps += 1
    optimizer.zero_grad(set_to_none=True)
