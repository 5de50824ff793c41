"""Gradients of one global batch, and the optimizer step that uses them.

Each process computes the micro-batches that are its share. The noise of one depends on its number within the global batch
and not on who computes it, so that the batch is the same on any number of processes.
"""

from collections.abc import Iterator

import torch

from gan_refine.foundation import distributed
from gan_refine.interfaces import Latents, Loss
from gan_refine.noise import rng_for
from gan_refine.refine.regularizers import forward_regularized
from gan_refine.refine.state import RefineState, Watched

# Random streams apart from those of the steps, which are 0 for the generator and 1, 2, ... for the auxiliary networks.
WARMUP_STREAM = 2000


def micro_batches(state: RefineState, images: int, stream: int) -> Iterator[tuple[Latents, torch.Generator]]:
    """This process's share of one global batch: latents, which do not depend on --batch-gpu, and the noise of each part."""
    rng = rng_for(state.options.seed, 0, images, stream, state.device)
    latents = state.generator.draw(state.options.batch, rng).split(state.options.batch_gpu)
    for number in state.micro_batch_numbers:
        own = rng if number == 0 else rng_for(state.options.seed, number, images, stream, state.device)
        yield latents[number], own


def auxiliary_gradient(state: RefineState, images: int, stream: int) -> None:
    """Adds the mean gradient over one batch of fresh images to the parameters of the auxiliary networks."""
    for latents, rng in micro_batches(state, images, stream):
        with torch.no_grad():
            fake = state.generator(latents)
        loss = state.objective.auxiliary_loss(fake, latents.labels, rng)
        (loss.per_sample.sum() / state.options.batch).backward()
        watch(state, "auxiliary", loss, images, stream)


def generator_gradient(state: RefineState, images: int, stream: int) -> None:
    """Adds the mean gradient over one batch to the generator's parameters and its figures to the health record."""
    for latents, rng in micro_batches(state, images, stream):
        fake, regularization = forward_regularized(state.generator, state.regularizer, latents)
        loss = state.objective.generator_loss(fake, latents.labels, rng)
        loss = Loss(loss.per_sample + regularization, loss.sigma, loss.logs)
        (loss.per_sample.sum() / state.options.batch).backward()
        state.health.add(loss)
        watch(state, "generator", loss, images, stream)


def joint_gradient(state: RefineState, images: int, stream: int) -> None:
    """The work of `auxiliary_gradient` and `generator_gradient` on one batch, with one pass of each network."""
    for latents, rng in micro_batches(state, images, stream):
        fake, regularization = forward_regularized(state.generator, state.regularizer, latents)
        auxiliary, loss = state.objective.joint_losses(fake, latents.labels, rng)
        loss = Loss(loss.per_sample + regularization, loss.sigma, loss.logs)
        ((auxiliary.per_sample.sum() + loss.per_sample.sum()) / state.options.batch).backward()
        state.health.add(loss)
        watch(state, "auxiliary", auxiliary, images, stream)
        watch(state, "generator", loss, images, stream)


def learning_gradients(state: RefineState) -> Iterator[str]:
    """One step of the loop: yields `auxiliary` or `generator` when the gradient of that network's next update is complete."""
    state.objective.reach(state.images / state.options.total_images)
    if state.objective.joint:
        joint_gradient(state, state.images, 0)
        yield "auxiliary"
    else:
        for step in range(state.objective.auxiliary_steps):
            auxiliary_gradient(state, state.images, 1 + step)
            yield "auxiliary"
        generator_gradient(state, state.images, 0)
    yield "generator"


def watch(state: RefineState, network: str, loss: Loss, images: int, stream: int) -> None:
    """Remembers the batch for the diagnosis, should its loss not be finite."""
    state.watched.append(Watched(network, images, stream, loss.sigma.detach(), loss.per_sample.detach()))


def optimizer_step(state: RefineState, name: str, rates: list[float]) -> None:
    """One update of `name`, generator or auxiliary, from the gradients of all processes, which are then cleared.

    A gradient that is not finite is counted and not applied; on a GPU the fused optimizer sees to it, and nothing waits.
    """
    optimizer = state.optimizers[name]
    distributed.sum_gradients(optimizer.parameters)
    gradients = [parameter.grad for parameter in optimizer.parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    is_finite = norm.isfinite()
    state.skips[name] = (state.skips[name] + 1) * ~is_finite
    state.health.norms[name].append(norm)
    if state.options.clip_grad:
        torch._foreach_mul_(gradients, (state.options.clip_grad / norm.double()).clamp(max=1).to(norm.dtype))
    if state.on_gpu or bool(is_finite):
        optimizer.step(rates, (~is_finite).float() if state.on_gpu else None)
        if name == "auxiliary":
            state.objective.auxiliary_stepped(state.options.batch)
    if name == "generator":
        state.objective.generator_stepped(state.options.batch)
    optimizer.zero_grad()
