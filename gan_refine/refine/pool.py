"""Target pools: images of the generator moved against the objective's gradient, which the generator then learns to make."""

from typing import NamedTuple, TypedDict

import torch

from gan_refine.foundation import distributed
from gan_refine.interfaces import Images, Latents
from gan_refine.refine.gradients import POOL_STREAM, micro_batches, watch
from gan_refine.refine.regularizers import forward_regularized
from gan_refine.refine.state import RefineState


class Target(NamedTuple):
    """One micro-batch of a pool: latents, and the images that the generator is to make of them."""

    latents: Latents
    images: Images


class TargetRecord(TypedDict):
    """A Target in a checkpoint."""

    z: torch.Tensor
    labels: torch.Tensor
    noise_seed: int | None
    images: torch.Tensor


def make_targets(state: RefineState, images: int) -> list[Target]:
    """This process's share of one batch of the pool: images moved against the objective's gradient, with their latents.

    They take `pool_euler_steps` steps of Euler's method along Diff-Instruct's flow (eq. 3.2 of arXiv:2305.18455) in the space of
    images, each along the gradient of one draw of noise. One draw is mostly noise, and weights that follow it wander; learning
    the moved images by squared error takes many optimizer steps for the price of one.
    """
    batch: list[Target] = []
    for latents, rng in micro_batches(state, images, POOL_STREAM):
        own = Latents(latents.z.clone(), latents.labels.clone(), latents.noise_seed)
        batch.append(Target(own, _moved(state, own, rng, images)))
    return batch


def _moved(state: RefineState, latents: Latents, rng: torch.Generator, images: int) -> Images:
    moved, step = state.generator.forward_fp32(latents).detach(), state.pool_step_size / state.options.pool_euler_steps
    for _ in range(state.options.pool_euler_steps):
        moved.requires_grad_()
        loss = state.objective.generator_loss(moved, latents.labels, rng)
        (gradient,) = torch.autograd.grad(loss.per_sample.sum(), moved)
        moved = moved.detach() - step * gradient
        state.health.add(loss)
        watch(state, "generator", loss, images, POOL_STREAM)
    # Contiguous, as it comes back from a checkpoint: the order of sums may depend on the layout.
    return moved.contiguous()


def target_gradient(state: RefineState, batch: list[Target]) -> None:
    """Adds the mean gradient of the objective's distance to one batch of targets to the generator's parameters."""
    for latents, target in batch:
        fake, regularization = forward_regularized(state.generator, state.regularizer, latents)
        error = state.objective.pool_distance(fake, target) + regularization
        (error.sum() / state.options.batch).backward()


def gather_targets(batch: list[Target]) -> list[TargetRecord]:
    """The micro-batches of all processes, in the order of the global batch, on the CPU. Every process must call it."""
    found: list[TargetRecord] = []
    for latents, images in batch:
        seed = -1 if latents.noise_seed is None else latents.noise_seed
        seeds = distributed.gather_across(torch.tensor([seed])).tolist()
        parts = [distributed.gather_across(t).cpu().split(len(images)) for t in (latents.z, latents.labels, images)]
        for number, noise_seed in enumerate(seeds):
            z, labels, target = (tensors[number].clone() for tensors in parts)
            found.append(
                {"z": z, "labels": labels, "noise_seed": None if noise_seed < 0 else noise_seed, "images": target}
            )
    # So far micro-batch by micro-batch, each for all processes; a global batch goes process by process.
    share, processes = len(batch), distributed.get_world_size()
    return [found[part * processes + rank] for rank in range(processes) for part in range(share)]


def load_target(record: TargetRecord, device: torch.device) -> Target:
    """The inverse of `gather_targets` for one micro-batch."""
    latents = Latents(record["z"].to(device), record["labels"].to(device), record["noise_seed"])
    return Target(latents, record["images"].to(device))
