"""Which network numbers that are not finite come from, and at which noise levels."""

import torch
from torch import nn

from gan_refine.interfaces import Latents, Objective
from gan_refine.refine.gradients import micro_batches
from gan_refine.refine.health import SIGMA_BANDS
from gan_refine.refine.state import RefineState


def diagnose(state: RefineState) -> str:
    """One line for the user. Broken weights are named first; else the last bad batch is replayed and watched layer by layer."""
    culprit = _broken_weights(state) or _broken_layer(state)
    if culprit is None:
        culprit = "no layer gives them, so they arise in the backward pass; lower the learning rates or set --clip-grad"
    return f"gradients are not finite, step after step ({_where(state)}): {culprit}"


def _networks(state: RefineState) -> dict[str, nn.Module]:
    """The generator and the objective's networks by name, those of nested objectives too, the same network once."""
    found: dict[str, nn.Module] = {"generator": state.generator}
    waiting = list(state.objective.named_children())
    while waiting:
        name, module = waiting.pop(0)
        if isinstance(module, Objective):
            waiting += list(module.named_children())
        elif all(module is not other for other in found.values()):
            found[name] = module
    return found


def _broken_weights(state: RefineState) -> str | None:
    for name, module in _networks(state).items():
        for key, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return f"the {_words(name)} has weights that are not finite, first {key}"
    return None


def _broken_layer(state: RefineState) -> str | None:
    """The first layer that turns finite inputs into an output that is not finite."""
    culprits: list[str] = []
    handles = []
    for name, network in _networks(state).items():
        for key, module in network.named_modules():

            def hook(module: nn.Module, given: tuple, result: object, label: str = f"{name}|{key}") -> None:
                if not culprits and _finite(given) and not _finite((result,)):
                    culprits.append(label)

            handles.append(module.register_forward_hook(hook))
    try:
        _replay(state)
    finally:
        for handle in handles:
            handle.remove()
    if not culprits:
        return None
    name, _, key = culprits[0].partition("|")
    return f"the {_words(name)} gives them" + (f", first in its layer {key}" if key else "")


def _replay(state: RefineState) -> None:
    """The last bad batch again, without gradients and without changing anything."""
    bad = state.bad_batch
    images, stream = (state.images, 0) if bad is None else (bad.images, bad.stream)
    for latents, rng in micro_batches(state, images, stream):
        with torch.no_grad():
            fake = state.generator(latents)
        if bad is not None and bad.network == "auxiliary":
            state.objective.auxiliary_loss(fake, latents.labels, rng)
        else:
            state.objective.generator_loss(fake.requires_grad_(), latents.labels, rng)


def _finite(values: tuple) -> bool:
    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
    inner = [part for value in values if isinstance(value, Latents) for part in (value.z, value.labels)]
    return all(bool(tensor.isfinite().all()) for tensor in [*tensors, *inner])


def _where(state: RefineState) -> str:
    bad = state.bad_batch
    if bad is None:
        return "at every noise level"
    low, high = min(bad.broken_sigmas()), max(bad.broken_sigmas())
    bounds = (0.0, *SIGMA_BANDS, float("inf"))
    first = max(bound for bound in bounds if bound <= low)
    last = min(bound for bound in bounds if bound > high)
    return f"step of the {bad.network}, samples with sigma {low:.3g} to {high:.3g}, band {first:g} to {last:g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
