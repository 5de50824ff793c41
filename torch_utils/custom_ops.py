"""Builds, finds and loads the compiled kernels of torch_utils.ops, and chooses between them and the reference path.

Nothing is built on import. The first operation that can use a kernel builds that device's library once, with ninja, into a
cache folder; if that fails, one line says why and the reference path is used instead.
`python -m torch_utils.custom_ops` shows what is built, for what, and why not; `--build` (re)builds.
"""

import argparse
import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence

import torch

from .kernel_build import BuildError, Recipe, build, cache_folder, cpu_recipe, cuda_recipe, find_built, retry

IMPLS = ("auto", "cuda", "cpu", "ref")
VARIABLE = "TORCH_UTILS_OPS"
ENVIRONMENT_IMPL = os.environ.get(VARIABLE, "auto")  # what impl="auto" means

# The numbers that portable.h gives to dtypes.
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
SUPPORTED = {
    "cpu": frozenset({torch.float32, torch.float64, torch.bfloat16}),
    "cuda": frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16}),
}
ERRORS = {1: "an argument is out of range", 2: "out of memory"}

RECIPES: dict[str, Callable[[], Recipe]] = {"cpu": cpu_recipe, "cuda": cuda_recipe}

LIBRARY = torch.library.Library("torch_utils", "FRAGMENT")

Argument = torch.Tensor | Sequence[int] | float | int | bool | None

logger = logging.getLogger(__name__)


@functools.cache
def why_not(device: str) -> str | None:
    """None if the kernels of 'cpu' or 'cuda' are loaded, after building them if necessary; else the reason in one line.

    A process tries once; the reason is logged once, as a warning.
    """
    try:
        _libraries[device] = ctypes.CDLL(str(build(RECIPES[device]())))
    except (BuildError, OSError) as error:
        reason = " ".join(str(error).split())
        logger.warning("%s kernels are not available, the slower reference path is used: %s", device, reason)
        return reason
    return None


_libraries: dict[str, ctypes.CDLL] = {}  # filled by why_not


@functools.cache
def _function(device: str, name: str, argtypes: tuple[type, ...]) -> Callable[..., int]:
    found = getattr(_libraries[device], f"{device}_{name}")
    # The last argument: how many threads, or on which stream.
    found.argtypes, found.restype = (*argtypes, ctypes.c_int if device == "cpu" else ctypes.c_void_p), ctypes.c_int
    return found


def launch(name: str, argtypes: tuple[type, ...], arguments: Sequence[int | float | None], x: torch.Tensor) -> None:
    """Runs kernel `name` of the loaded library for the device of `x`, on torch's threads or current stream.

    `arguments` are those of the exported function but for the last. Raises RuntimeError if the kernel reports a failure.
    """
    kernel = _function(x.device.type, name, argtypes)
    if x.device.type == "cpu":
        result = kernel(*arguments, torch.get_num_threads())
    else:
        with torch.cuda.device(x.device):
            result = kernel(*arguments, torch.cuda.current_stream().cuda_stream)
    if result:
        raise RuntimeError(f"kernel {name} failed: {ERRORS.get(result, f'CUDA error {-result}')}")


def use_kernel(impl: str, x: torch.Tensor, min_elements: int, differentiable: bool = True) -> bool:
    """Whether an operation on `x` runs as a compiled kernel rather than along the reference path.

    'auto' takes a kernel if one exists, if it has the derivatives needed (`differentiable`), and if `x` has at least
    `min_elements` elements (below that a call costs more than it saves), outside of torch.jit.trace. 'cpu' and 'cuda' raise
    ValueError or RuntimeError if there is no such kernel.
    """
    if impl == "auto":
        impl = ENVIRONMENT_IMPL
    if impl not in IMPLS:
        raise ValueError(f"impl is one of {', '.join(IMPLS)}, got {impl!r} (the default is taken from {VARIABLE})")
    if impl == "ref":
        return False
    device = x.device.type
    fits = device in SUPPORTED and x.dtype in SUPPORTED[device] and differentiable
    if impl == "auto":
        if not fits or torch.jit.is_tracing():  # a traced graph, such as ONNX's, runs where no kernel of ours is
            return False
        # A compiled graph holds the operation, which chooses between kernel and reference when it runs.
        return torch.compiler.is_compiling() or (x.numel() >= min_elements and why_not(device) is None)
    if device != impl:
        raise ValueError(f"impl={impl!r} needs a tensor on that device, got one on {device}")
    if not fits:
        what = f"do not take {x.dtype}" if differentiable else "have no gradient of a filter"
        raise ValueError(f"the {impl} kernels {what}; use impl='ref'")
    if not torch.compiler.is_compiling() and (reason := why_not(device)) is not None:
        raise RuntimeError(f"impl={impl!r} was requested, but {device} kernels are not available: {reason}")
    return True


class Operation:
    """An operation of torch.library, torch_utils::NAME, which torch.compile, torch.export and torch.vmap treat as one node.

    `run` computes it on CPUs and GPUs, `fake` gives shape and strides of its result, `remember` and `backward` are setup_context
    and backward of a torch.autograd.Function, `over_batch` is its rule for torch.vmap. Calling the object is the same as calling
    the operation, at less cost: torch_utils::NAME_kernel is the operation without derivative.
    """

    def __init__(
        self,
        name: str,
        signature: str,
        run: Callable[..., torch.Tensor],
        fake: Callable[..., torch.Tensor],
        remember: Callable[..., None],
        backward: Callable[..., tuple[torch.Tensor | None, ...]],
        over_batch: Callable[..., tuple[torch.Tensor, int]],
    ) -> None:
        for each in (name, f"{name}_kernel"):
            LIBRARY.define(f"{each}{signature}")
            for key in ("CPU", "CUDA"):
                LIBRARY.impl(each, run, key)
            torch.library.register_fake(f"torch_utils::{each}", fake, lib=LIBRARY)
            torch.library.register_vmap(f"torch_utils::{each}", over_batch, lib=LIBRARY)
        torch.library.register_autograd(f"torch_utils::{name}", backward, setup_context=remember, lib=LIBRARY)
        self._whole = getattr(torch.ops.torch_utils, name).default
        self._kernel = getattr(torch.ops.torch_utils, f"{name}_kernel").default
        # torch.library's own way through Python doubles the time of a small call.
        rules = {"forward": self._kernel, "setup_context": remember, "backward": backward, "vmap": over_batch}
        self._eager: type[torch.autograd.Function] = type(
            name, (torch.autograd.Function,), {key: staticmethod(rule) for key, rule in rules.items()}
        )

    def __call__(self, *arguments: Argument) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return self._whole(*arguments)
        return self._eager.apply(*arguments) if torch.is_grad_enabled() else self._kernel(*arguments)


def status(device: str) -> str:
    """What is built for this device and where, or why not; builds nothing."""
    try:
        recipe = RECIPES[device]()
        library = find_built(recipe)
    except BuildError as error:
        return f"{device}: not built: {error}"
    if library is None:
        return f"{device}: not built yet; the first use builds it for {recipe.target} in {recipe.folder()}"
    return f"{device}: built for {recipe.target}: {library}"


def main(arguments: list[str]) -> int:
    """The status of both devices on standard output; 1 if a build was asked for and failed."""
    parser = argparse.ArgumentParser(f"python -m {__package__}.custom_ops", description=main.__doc__)
    parser.add_argument("--build", choices=["cpu", "cuda"], action="append", help="build now, even if it failed before")
    failed = False
    for device in parser.parse_args(arguments).build or []:
        try:
            retry(RECIPES[device]())
        except BuildError:
            failed = True  # said below
    print(f"default (${VARIABLE}): {ENVIRONMENT_IMPL}")
    print(f"cache: {cache_folder()}")
    for device in RECIPES:
        print(status(device))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
