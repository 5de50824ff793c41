"""Any module that is called as net(x, sigma, labels), from a file that the user trusts enough to run it."""

from pathlib import Path

import torch
from torch import nn

from gan_refine.errors import FileFormatError
from gan_refine.finite import require_finite_module
from gan_refine.pickles import DAMAGE_ERRORS, error_text, run_pickle_file
from gan_refine.teachers.edm import SIGMA_RANGE, EdmTeacher

ATTRIBUTES = ("img_channels", "img_resolution")
DEFAULTS = {"label_dim": 0, "sigma_min": SIGMA_RANGE[0], "sigma_max": SIGMA_RANGE[1]}


def load_any_teacher(path: Path) -> EdmTeacher:
    """The module under 'ema', or a file's only module, made by RUNNING the file. Raises FileFormatError.

    It denoises x [n, C, R, R] at sigma [n, 1, 1, 1]; its img_channels and img_resolution are C and R.
    """
    net = run_pickle_file(path).network("ema").float().eval()
    missing = [name for name in ATTRIBUTES if not isinstance(getattr(net, name, None), int)]
    if missing:
        raise FileFormatError(f"{path}: a {type(net).__name__} has no integer {' and no integer '.join(missing)}")
    for name, value in DEFAULTS.items():
        if not hasattr(net, name):
            setattr(net, name, value)
    require_finite_module(net, f"{path}, ema")
    _check_call(path, net)
    return EdmTeacher(net)


def _check_call(path: Path, net: nn.Module) -> None:
    """Calls the module once, so that one with another signature is refused before the run. Raises FileFormatError."""
    noisy = torch.zeros([1, int(net.img_channels), int(net.img_resolution), int(net.img_resolution)])  # type: ignore[arg-type]
    labels = torch.zeros([1, int(net.label_dim)]) if net.label_dim else None  # type: ignore[arg-type]
    name = type(net).__name__
    try:
        with torch.no_grad():
            shape = list(net(noisy, torch.ones([1, 1, 1, 1]), labels).shape)
    except DAMAGE_ERRORS as error:
        raise FileFormatError(
            f"{path}: a {name} cannot be called as net(x, sigma, labels) ({error_text(error)})"
        ) from error
    if shape != list(noisy.shape):
        raise FileFormatError(f"{path}: a {name} makes {shape} of {list(noisy.shape)}; expected a denoiser")
