"""Any module that is called as G(z, c), from a file that the user trusts enough to run it."""

import copy
import inspect
import shutil
from pathlib import Path

import torch
from torch import nn

from gan_refine.errors import FileFormatError, MismatchError
from gan_refine.generators.drawing import Drawing, draw_latents
from gan_refine.interfaces import Images, ImageSpec, Latents
from gan_refine.pickles import CONSEQUENCES, TrustedFile, printable, run_pickle_file

DEFAULT_NETWORK = "G_ema"


class AnyGenerator(nn.Module):
    """A Generator around a module with `z_dim`, perhaps `c_dim`, that makes [n, C, R, R] images of z [n, Z] and c [n, K]."""

    def __init__(self, net: nn.Module, source: TrustedFile, spec: ImageSpec, truncation_psi: float = 1) -> None:
        super().__init__()
        self.options = {} if truncation_psi == 1 else {"truncation_psi": truncation_psi}
        self.net = net.eval().requires_grad_(True)
        self.source = source
        self.spec = spec
        self.drawing = Drawing()

    def __deepcopy__(self, memo: dict) -> "AnyGenerator":
        return self._around(copy.deepcopy(self.net, memo), self.options.get("truncation_psi", 1))

    def _around(self, net: nn.Module, truncation_psi: float) -> "AnyGenerator":
        """Another module of the same origin, whose latents are drawn alike."""
        other = AnyGenerator(net, self.source, self.spec, truncation_psi)
        other.drawing = self.drawing
        return other

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        """z ~ N(0, I) [n, Z], labels as `drawing` says, and a seed for what the module draws itself."""
        device = next(self.parameters()).device
        return draw_latents(n, [int(self.net.z_dim)], self.spec.num_classes, rng, device, self.drawing)  # type: ignore[arg-type]

    def forward(self, latents: Latents) -> Images:
        """Differentiable images, clamped to [-1, 1]; the same latents give the same images."""
        devices = [latents.z.device] if latents.z.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(latents.noise_seed or 0)
            return self.net(latents.z, latents.labels, **self.options).float().clamp(-1, 1)

    def truncated(self, psi: float) -> "AnyGenerator":
        """The same module called with `truncation_psi`. Raises MismatchError if it does not know that."""
        if "truncation_psi" not in inspect.signature(self.net.forward).parameters:
            raise MismatchError(f"a {type(self.net).__name__} knows no truncation_psi; leave --trunc out")
        return self._around(self.net, psi)

    def critic(self) -> nn.Module | None:
        """The file's D, if it holds one that runs here."""
        return self.source.optional("D")

    def export(self, path: Path) -> None:
        """Writes the source's objects with this module as G_ema and G, whichever of them is there; atomic."""
        self.source.write(path, {"G_ema": self.net, "G": self.net})


def load_any_generator(path: Path, which: str = DEFAULT_NETWORK) -> AnyGenerator:
    """The module under `which`, or a file's only module, made by RUNNING the file. Raises FileFormatError."""
    file = run_pickle_file(path)
    net = file.network(which)
    if not isinstance(getattr(net, "z_dim", None), int):
        raise FileFormatError(
            f"{path}: a {type(net).__name__} has no number z_dim; wanted is a module called as G(z, c)"
        )
    return AnyGenerator(net.float(), file, _spec(path, net))


def write_any_original(path: Path, out: Path, which: str = DEFAULT_NETWORK) -> None:
    """What `export` would write before any refinement: the very bytes of `path`, unless another network is to be in both."""
    if which == DEFAULT_NETWORK:
        shutil.copyfile(path, out)
    else:
        load_any_generator(path, which).export(out)


def _spec(path: Path, net: nn.Module) -> ImageSpec:
    """What images it makes: one is made to see."""
    classes = getattr(net, "c_dim", 0) or 0
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shape = list(net.eval()(torch.zeros([1, int(net.z_dim)]), torch.zeros([1, classes])).shape)  # type: ignore[arg-type]
    except CONSEQUENCES as error:
        reason = f"{type(error).__name__}: {printable(error)}"
        raise FileFormatError(f"{path}: a {type(net).__name__} cannot be called as G(z, c) ({reason})") from error
    if len(shape) != 4 or shape[0] != 1 or shape[2] != shape[3]:
        raise FileFormatError(f"{path}: a {type(net).__name__} makes {shape}; wanted are square images [1, C, R, R]")
    return ImageSpec(shape[1], shape[2], classes)
