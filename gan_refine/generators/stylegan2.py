"""StyleGAN2 generators read from network pickles and state dicts."""

import copy
import shutil
from pathlib import Path

import torch
from torch import nn

from gan_refine.config import WHITENING, require
from gan_refine.generators.pretrained import PretrainedGenerator, Source
from gan_refine.generators.w_space import Weights, has_moved, mean_w, weights_of, whiten
from gan_refine.interfaces import Images, ImageSpec, Latents
from gan_refine.pickles import (
    DEFAULT_NETWORK,
    NetworkFile,
    PickleFile,
    TrustedFile,
    build_discriminator,
    build_generator,
    check_refinable,
    foreign_discriminator,
    write_gan,
    write_refined,
)

PARTS = ("mapping", "synthesis", "affine", "noise")


class StyleGan2(PretrainedGenerator):
    """A StyleGAN2 generator. Copies share its file, and remember the mapping network that the file holds."""

    family = "stylegan2"
    has_noise_inputs, can_be_whitened = True, True
    is_whole_file = False  # whether the file holds what `export` writes before any refinement

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
        self.net = net.eval().requires_grad_(True)
        self.source = source
        self.spec = ImageSpec(int(net.img_channels), int(net.img_resolution), int(net.c_dim))  # type: ignore[arg-type]

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """True: a file that no other family accepts is taken for StyleGAN2's, and `from_source` says what is wrong with it."""
        return True

    @classmethod
    def from_source(cls, source: Source, which: str = DEFAULT_NETWORK) -> "StyleGan2":
        """The generator G_ema (or G) of a network pickle or state dict. Raises FileFormatError."""
        assert not isinstance(source, TrustedFile), "files that are run belong to another family"
        net = build_generator(source, which)
        if isinstance(source, PickleFile) and source.keeps_its_bytes:
            check_refinable(source, net.state_dict())  # before hours of refinement, not after them
        generator = cls(net, source)
        generator.is_whole_file = which == DEFAULT_NETWORK and generator._from_torch_pickle()
        return generator

    def write_original(self, path: Path) -> None:
        """Writes what `export` writes before any refinement: a copy of the file unless its format or G_ema changes."""
        if self.is_whole_file and self.source is not None:
            shutil.copyfile(self.source.path, path)
        else:
            self.export(path)

    def __deepcopy__(self, memo: dict) -> "StyleGan2":
        return self._with_net(copy.deepcopy(self.net, memo), self.truncation_psi)

    def _with_net(self, net: nn.Module, truncation_psi: float) -> "StyleGan2":
        other = StyleGan2(net, self.source, truncation_psi, self.first_mapping)
        other.latent_options = self.latent_options
        return other

    @property
    def z_shape(self) -> list[int]:
        return [int(self.net.z_dim)]  # type: ignore[arg-type]

    def forward(self, latents: Latents) -> Images:
        """Differentiable images, clamped to [-1, 1] as every viewer does; on GPUs some layers are float16 if the file says so.

        GANs overshoot that range invisibly. A denoiser that never saw such pixels would make the generator correct nothing else.
        """
        return self._images(latents, force_fp32=False)

    def forward_fp32(self, latents: Latents) -> Images:
        return self._images(latents, force_fp32=True)

    def _images(self, latents: Latents, force_fp32: bool) -> Images:
        options = {"force_fp32": force_fp32, "noise_mode": "const", "truncation_psi": self.truncation_psi}
        if latents.noise_seed is None:
            return self.net(latents.z, latents.labels, **options).clamp(-1, 1)
        options["noise_mode"] = "random"
        devices = [latents.z.device] if latents.z.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(latents.noise_seed)
            return self.net(latents.z, latents.labels, **options).clamp(-1, 1)

    def net_with_mean_w(self) -> nn.Module:
        """The network with w_avg equal to its mean w: itself while the mapping is as it was in the file, else a copy."""
        mapping = self.net.get_submodule("mapping")
        if "w_avg" not in dict(mapping.named_buffers()) or not has_moved(mapping, self.first_mapping):
            return self.net
        net = copy.deepcopy(self.net)
        net.get_buffer("mapping.w_avg").copy_(mean_w(mapping, self.draw))
        return net

    def truncated(self, psi: float) -> "StyleGan2":
        """The same network with w moved towards its mean: psi 1 changes nothing, 0 gives the mean image."""
        return self._with_net(self.net_with_mean_w(), psi)

    def whitened(self, power: float) -> "StyleGan2":
        """A copy whose style layers see w with standard deviations s^(1 - 2 power) in place of s in its principal directions.

        Raises OptionError for a power that is not from 0 to 0.5.
        """
        require("whiten_w", power, WHITENING.holds(power), str(WHITENING))
        other = copy.deepcopy(self)
        whiten(other.net, other.draw, power)
        return other

    def kept_parts(self) -> tuple[str, ...]:
        """The noise strengths: trained, they pay for variety with texture (docs/method.md)."""
        return ("noise",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once: the mapping network, the style affine layers, the noise strengths, and the rest of synthesis."""
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in PARTS}
        for name, parameter in self.net.named_parameters():
            groups[_part_of(name)].append(parameter)
        return groups

    def discriminator(self) -> nn.Module | None:
        """The discriminator in the generator's file; None if there is none. Raises FileFormatError."""
        return None if self.source is None else build_discriminator(self.source)

    def export(self, path: Path) -> None:
        """Writes the file that the generator came from with these weights in both G_ema and G, atomically.

        w_avg is written as the mean w of the refined mapping; the network in memory keeps its own. TensorFlow pickles, state
        dicts, files of torch.save and those that call unknown names become PyTorch pickles, with our source embedded and their
        own discriminator.
        """
        if self.source is None:
            raise ValueError(
                "this generator was not read from a file; export it with gan_refine.pickles.write_networks"
            )
        net = self.net_with_mean_w()
        if not self._from_torch_pickle():
            write_gan(path, net, self.discriminator(), net)
            return
        assert isinstance(self.source, PickleFile), "_from_torch_pickle says so"
        weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
        write_refined(self.source, weights, path)

    def notices(self) -> list[str]:
        """What of the file a refined one does not have."""
        if not isinstance(self.source, PickleFile) or self._from_torch_pickle():
            return []
        left_out, called = foreign_discriminator(self.source), self.source.called
        found = [f"its discriminator is {left_out} and left out"] if left_out else []
        if called:
            found.append(
                f"opening it elsewhere calls {', '.join(called[:3])}: entries other than the networks are left out"
            )
        return [f"Refined files are not copies of {self.source.path.name}: {part}." for part in found]

    def _from_torch_pickle(self) -> bool:
        return isinstance(self.source, PickleFile) and self.source.keeps_its_bytes


def _part_of(parameter: str) -> str:
    path = parameter.split(".")
    if path[0] == "mapping":
        return "mapping"
    if "affine" in path:
        return "affine"
    return "noise" if path[-1] == "noise_strength" else "synthesis"
