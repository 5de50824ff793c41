"""Weights of modules out of a checkpoint and into one."""

from collections.abc import Iterable

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]


def module_tensors(module: nn.Module, without: Iterable[nn.Module] = ()) -> Tensors:
    """Parameters and buffers by name, as they are and not copied, except those that belong to a module of `without`."""
    foreign = {id(tensor) for other in without for tensor in other.state_dict(keep_vars=True).values()}
    return {n: t.detach() for n, t in module.state_dict(keep_vars=True).items() if id(t) not in foreign}


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Tensors, without: Iterable[nn.Module] = ()) -> None:
    """The inverse: parameters are copied in place; buffers may have another shape. Raises ValueError for other names."""
    own = module_tensors(module, without)
    if own.keys() != tensors.keys():
        raise ValueError(f"tensors of a {type(module).__name__} differ in {sorted(own.keys() ^ tensors.keys())[:3]}")
    for name, tensor in tensors.items():
        if own[name].shape == tensor.shape:
            own[name].copy_(tensor)
            continue
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        if leaf not in holder._buffers:
            raise ValueError(f"{name} is {list(own[name].shape)}, not {list(tensor.shape)}")
        holder._buffers[leaf] = tensor.to(own[name].device, own[name].dtype)
