"""The random part of a batch, for every family whose latents are normal and whose labels are classes."""

from collections.abc import Sequence

import torch

from gan_refine.interfaces import Latents


def draw_latents(
    n: int, shape: Sequence[int], classes: int, rng: torch.Generator, device: torch.device | str
) -> Latents:
    """z ~ N(0, I) [n, *shape], labels uniform over the classes, and a seed for the network's own noise.

    `rng` is on the CPU, so that every device gets the same.
    """
    z = torch.randn([n, *shape], generator=rng)
    labels = torch.zeros([n, classes])
    if classes:
        labels[torch.arange(n), torch.randint(classes, [n], generator=rng)] = 1
    seed = int(torch.randint(2**62, [], generator=rng))
    return Latents(z.to(device), labels.to(device), seed)
