"""EDM, VP, VE and iDDPM preconditioned networks as denoisers."""

import copy
import functools
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gan_refine.errors import OptionError
from gan_refine.fused_blocks import fuse_blocks
from gan_refine.interfaces import Denoiser, Images, ImageSpec, Labels, Sigma
from gan_refine.networks.edm_unet import UNetBlock
from gan_refine.pickles import build_teacher, read_networks

# The range over which EDM's networks are trained and sampled (Table 1 of arXiv:2206.00364); their own limits can be wider.
SIGMA_RANGE = (0.002, 80.0)


class EdmTeacher(Denoiser):
    """A Denoiser around a preconditioned network. Frozen and in evaluation mode, so that equal weights give equal bits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        fuse_blocks(self.net)
        self.spec = ImageSpec(int(net.img_channels), int(net.img_resolution), int(net.label_dim))  # type: ignore[arg-type]
        low, high = float(net.sigma_min), float(net.sigma_max)  # type: ignore[arg-type]
        self.sigma_range = (max(low, SIGMA_RANGE[0]), min(high, SIGMA_RANGE[1]))

    def forward(self, noisy: Images, sigma: Sigma, labels: Labels) -> Images:
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return self.net(noisy, sigma, labels if self.spec.num_classes else None)

    def trainable_copy(self) -> "EdmTeacher":
        """An equal denoiser whose weights require gradients; dropout stays off."""
        twin = copy.deepcopy(self)
        twin.requires_grad_(True)
        return twin


def edm_network(denoiser: Denoiser) -> nn.Module | None:
    """The preconditioned network that EDM's samplers call, if the denoiser is one."""
    return denoiser.net if isinstance(denoiser, EdmTeacher) else None


def recompute_activations(module: nn.Module) -> int:
    """From now on the U-Nets inside `module` keep only their blocks' inputs for the backward pass, and compute the rest again.

    Gradients stay the same bits (arXiv:1604.06174): a forward pass more for a fraction of the memory. Returns how many.
    """
    blocks = [block for block in module.modules() if isinstance(block, UNetBlock)]
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return len(blocks)


def in_precision(denoiser: Denoiser, precision: str) -> Denoiser:
    """A denoiser with the same tensors, whose U-Net computes in float32, or in bfloat16 for `bf16`, whatever its file says.

    Preconditioning stays in float32. Raises OptionError for bf16 without an EDM U-Net.
    """
    shared = {id(tensor): tensor for tensor in denoiser.state_dict(keep_vars=True).values()}
    twin = copy.deepcopy(denoiser, shared)
    net = edm_network(twin)
    if net is not None:
        net.use_fp16 = False  # type: ignore[assignment]
    if precision == "bf16":
        if net is None or not any(isinstance(module, UNetBlock) for module in net.modules()):
            raise OptionError("--precision=bf16 is for EDM's U-Nets and this teacher has none; give auto, fp32 or tf32")
        net.get_submodule("model").register_forward_pre_hook(_to_bfloat16)
    return twin


def _to_bfloat16(unet: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Its layers follow the type of the noisy images; noise level and labels are embedded in float32."""
    noisy, *rest = given
    return noisy.to(torch.bfloat16), *rest


def load_edm(path: Path) -> EdmTeacher:
    """Reads a network pickle or state dict without running it. Raises FileFormatError."""
    return EdmTeacher(build_teacher(read_networks(path)))
