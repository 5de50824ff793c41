"""StyleGAN2 generators read from network pickles and state dicts."""

import copy
import shutil
from pathlib import Path

import torch
from torch import nn

from gan_refine.generators.drawing import Drawing, draw_latents
from gan_refine.generators.mean_w import Weights, has_moved, mean_w, weights_of
from gan_refine.interfaces import Images, ImageSpec, Latents
from gan_refine.pickles import (
    NetworkFile,
    PickleFile,
    build_discriminator,
    build_generator,
    check_refinable,
    read_networks,
    write_gan,
    write_refined,
)

DEFAULT_NETWORK = "G_ema"
PARTS = ("mapping", "synthesis", "affine", "noise")


class StyleGan2(nn.Module):
    """A Generator around a StyleGAN2 network; copies share the file that it came from, and know the mapping that was in it."""

    def __init__(
        self,
        net: nn.Module,
        source: NetworkFile | None = None,
        truncation_psi: float = 1,
        first_mapping: Weights | None = None,
    ) -> None:
        super().__init__()
        self.first_mapping = weights_of(net.get_submodule("mapping")) if first_mapping is None else first_mapping
        self.truncation_psi = truncation_psi
        self.drawing = Drawing()
        self.net = net.eval().requires_grad_(True)
        self.source = source
        self.spec = ImageSpec(int(net.img_channels), int(net.img_resolution), int(net.c_dim))  # type: ignore[arg-type]

    def __deepcopy__(self, memo: dict) -> "StyleGan2":
        return self._around(copy.deepcopy(self.net, memo), self.truncation_psi)

    def _around(self, net: nn.Module, truncation_psi: float) -> "StyleGan2":
        """Another network of the same origin, whose latents are drawn alike."""
        other = StyleGan2(net, self.source, truncation_psi, self.first_mapping)
        other.drawing = self.drawing
        return other

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        """z ~ N(0, I) [n, Z], labels and a seed for the noise inputs as `drawing` says; `rng` is on the CPU."""
        device = next(self.parameters()).device
        return draw_latents(n, [int(self.net.z_dim)], self.spec.num_classes, rng, device, self.drawing)  # type: ignore[arg-type]

    def forward(self, latents: Latents) -> Images:
        """Differentiable images, clamped to [-1, 1] as every viewer does; float32 throughout while gradients are wanted.

        GANs overshoot that range invisibly; a denoiser that never saw such pixels would have the generator mend nothing else.
        """
        options = {"force_fp32": torch.is_grad_enabled(), "noise_mode": "const", "truncation_psi": self.truncation_psi}
        if latents.noise_seed is None:
            return self.net(latents.z, latents.labels, **options).clamp(-1, 1)
        options["noise_mode"] = "random"
        devices = [latents.z.device] if latents.z.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(latents.noise_seed)
            return self.net(latents.z, latents.labels, **options).clamp(-1, 1)

    def in_step(self) -> nn.Module:
        """The network with the w_avg of its mapping: itself while the mapping is as it was in the file, else a copy."""
        mapping = self.net.get_submodule("mapping")
        if "w_avg" not in dict(mapping.named_buffers()) or not has_moved(mapping, self.first_mapping):
            return self.net
        net = copy.deepcopy(self.net)
        net.get_buffer("mapping.w_avg").copy_(mean_w(mapping, self.draw))
        return net

    def truncated(self, psi: float) -> "StyleGan2":
        """The same network with w moved towards its mean: psi 1 leaves it, 0 gives the mean image."""
        return self._around(self.in_step(), psi)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once: the mapping network, the style affine layers, the noise strengths, and the rest of synthesis."""
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in PARTS}
        for name, parameter in self.net.named_parameters():
            groups[_part_of(name)].append(parameter)
        return groups

    def critic(self) -> nn.Module | None:
        """The discriminator that was trained with this generator, if its file holds one."""
        return None if self.source is None else build_discriminator(self.source)

    def export(self, path: Path) -> None:
        """Writes the source's object graph with these weights in G_ema and G, whichever of them was read; atomic.

        w_avg is brought in step where the mapping has changed; the network itself keeps its own.
        Sources that are no PyTorch pickle become one, with our code embedded and their own discriminator.
        """
        if self.source is None:
            raise ValueError(
                "this generator was not read from a file; export it with gan_refine.pickles.write_networks"
            )
        net = self.in_step()
        if not _is_torch_pickle(self.source):
            write_gan(path, net, self.critic(), net)
            return
        assert isinstance(self.source, PickleFile), "_is_torch_pickle says so"
        weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
        write_refined(self.source, weights, path)


def _part_of(parameter: str) -> str:
    path = parameter.split(".")
    if path[0] == "mapping":
        return "mapping"
    if "affine" in path:
        return "affine"
    return "noise" if path[-1] == "noise_strength" else "synthesis"


def _is_torch_pickle(source: NetworkFile) -> bool:
    return isinstance(source, PickleFile) and not source.tensorflow()


def load_stylegan2(path: Path, which: str = DEFAULT_NETWORK) -> StyleGan2:
    """The generator G_ema (or G) of a network pickle or state dict, read without running it. Raises FileFormatError."""
    source = read_networks(path)
    net = build_generator(source, which)
    if isinstance(source, PickleFile):
        check_refinable(source, net.state_dict())  # before hours of refinement, not after them
    return StyleGan2(net, source)


def write_original(path: Path, out: Path, which: str = DEFAULT_NETWORK) -> None:
    """What `export` would write before any refinement; the very bytes of `path` where they are that already."""
    generator = load_stylegan2(path, which)
    assert generator.source is not None, "load_stylegan2 sets it"
    if which == DEFAULT_NETWORK and _is_torch_pickle(generator.source):
        shutil.copyfile(path, out)
    else:
        generator.export(out)
