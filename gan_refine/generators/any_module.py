"""Any module that is called as G(z, c), from a file that the user trusts enough to run it."""

import copy
import inspect
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gan_refine.errors import FileFormatError, MismatchError
from gan_refine.finite import require_finite_module
from gan_refine.generators.pretrained import PretrainedGenerator, Source
from gan_refine.interfaces import Images, ImageSpec, Latents
from gan_refine.pickles import DAMAGE_ERRORS, DEFAULT_NETWORK, TrustedFile, error_text, run_pickle_file


class AnyGenerator(PretrainedGenerator):
    """A module with `z_dim` and, if it is conditional, `c_dim`, that makes images [n, C, R, R] from z [n, Z] and c [n, K]."""

    family = "trusted"
    is_whole_file = False  # whether the file holds what `export` writes before any refinement

    def __init__(self, net: nn.Module, source: TrustedFile, probe: "Probe", truncation_psi: float = 1) -> None:
        super().__init__()
        self.options = {} if truncation_psi == 1 else {"truncation_psi": truncation_psi}
        self.net = net.eval().requires_grad_(True)
        self.source = source
        self.probe = probe
        self.spec = probe.spec
        self.has_noise_inputs = probe.takes_noise_mode
        self.draws_noise = probe.draws

    @classmethod
    def accepts(cls, source: Source) -> bool:
        return isinstance(source, TrustedFile)

    @classmethod
    def load(cls, path: Path, which: str = DEFAULT_NETWORK) -> "AnyGenerator":
        """The module under `which`, or a file's only module, made by RUNNING the file. Raises FileFormatError."""
        return cls.from_source(run_pickle_file(path), which)

    @classmethod
    def from_source(cls, source: Source, which: str = DEFAULT_NETWORK) -> "AnyGenerator":
        """The module under `which`, or a file's only module. Raises FileFormatError if it is not called as G(z, c)."""
        assert isinstance(source, TrustedFile), "only files that were run hold modules of any class"
        path, net = source.path, source.network(which)
        if which != DEFAULT_NETWORK and not isinstance(source.root, dict):
            raise FileFormatError(f"{path} holds one network and none called {which!r}; leave the choice out")
        if not isinstance(getattr(net, "z_dim", None), int):
            raise FileFormatError(
                f"{path}: a {type(net).__name__} has no integer z_dim; a module that is called as G(z, c) is needed"
            )
        require_finite_module(net.float(), f"{path}, {which}")
        generator = cls(net, source, _probe(path, net))
        generator.is_whole_file = which == DEFAULT_NETWORK
        return generator

    def write_original(self, path: Path) -> None:
        """Writes what `export` writes before any refinement: a copy of the file unless G_ema changes."""
        if self.is_whole_file:
            shutil.copyfile(self.source.path, path)
        else:
            self.export(path)

    def __deepcopy__(self, memo: dict) -> "AnyGenerator":
        return self._with_net(copy.deepcopy(self.net, memo), self.options.get("truncation_psi", 1))

    def _with_net(self, net: nn.Module, truncation_psi: float) -> "AnyGenerator":
        other = AnyGenerator(net, self.source, self.probe, truncation_psi)
        other.latent_options = self.latent_options
        return other

    @property
    def z_shape(self) -> list[int]:
        return [int(self.net.z_dim)]  # type: ignore[arg-type]

    def forward(self, latents: Latents) -> Images:
        """Differentiable images, clamped to [-1, 1]; the same latents give the same images."""
        options: dict[str, object] = dict(self.options)
        if self.probe.takes_noise_mode:
            options["noise_mode"] = "const" if latents.noise_seed is None else "random"
        devices = [latents.z.device] if latents.z.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(latents.noise_seed or 0)
            return self.net(latents.z, latents.labels, **options).float().clamp(-1, 1)

    def truncated(self, psi: float) -> "AnyGenerator":
        """The same module called with `truncation_psi`. Raises MismatchError if it has no such argument."""
        if "truncation_psi" not in inspect.signature(self.net.forward).parameters:
            raise MismatchError(f"a {type(self.net).__name__} has no argument truncation_psi; leave --trunc out")
        return self._with_net(self.net, psi)

    def discriminator(self) -> nn.Module | None:
        """The network D of the file; None if there is none, or if its source cannot run here."""
        return self.source.optional("D")

    def export(self, path: Path) -> None:
        """Writes the file's objects with this module as both G_ema and G, atomically."""
        self.source.write(path, {"G_ema": self.net, "G": self.net})


@dataclass(frozen=True)
class Probe:
    """What one call of a module shows: its images, whether it has the argument noise_mode, and whether it draws random numbers."""

    spec: ImageSpec
    takes_noise_mode: bool
    draws: bool


def _probe(path: Path, net: nn.Module) -> Probe:
    """Calls the module once or twice. Raises FileFormatError if it is not called as G(z, c) or makes no square images."""
    classes = getattr(net, "c_dim", 0) or 0
    latents = torch.zeros([1, int(net.z_dim)]), torch.zeros([1, classes])  # type: ignore[arg-type]
    net.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            net(*latents, noise_mode="const")
            takes_noise_mode = True
        except DAMAGE_ERRORS:
            takes_noise_mode = False
        before = torch.get_rng_state()
        try:
            shape = list(net(*latents).shape)
        except DAMAGE_ERRORS as error:
            raise FileFormatError(
                f"{path}: a {type(net).__name__} cannot be called as G(z, c) ({error_text(error)})"
            ) from error
        draws = not torch.equal(before, torch.get_rng_state())
    if len(shape) != 4 or shape[0] != 1 or shape[2] != shape[3]:
        raise FileFormatError(f"{path}: a {type(net).__name__} makes {shape}; square images [1, C, R, R] are needed")
    return Probe(ImageSpec(shape[1], shape[2], classes), takes_noise_mode, draws)
