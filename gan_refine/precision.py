"""--precision: float32 products exactly, on TF32 tensor cores, or bfloat16 inside the U-Nets. Weights are float32 in each."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gan_refine.errors import OptionError

PRECISIONS = ("auto", "fp32", "tf32", "bf16")


def resolve_precision(text: str, device: str) -> str:
    """What `auto` means on the device: tf32 where there are such cores, else fp32. Raises OptionError for tf32 elsewhere."""
    on_gpu = torch.device(device).type == "cuda"
    has_cores = on_gpu and torch.cuda.get_device_capability(device) >= (8, 0)
    if text == "tf32" and not has_cores:
        raise OptionError("--precision=tf32 needs a GPU of compute capability 8 or above; give auto, fp32 or bf16")
    return ("tf32" if has_cores else "fp32") if text == "auto" else text


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Inside, products of float32 tensors are exact to rounding or, with `tf32`, may round their factors to 10 bits on GPUs."""
    settings = _settings(tf32)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in settings]
    try:
        for owner, name, value in settings:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _settings(tf32: bool) -> list[tuple[object, str, object]]:
    """torch's settings for the precision of float32 products: (owner, attribute, value)."""
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return [(backends.cuda.matmul, "allow_tf32", tf32), (backends.cudnn, "allow_tf32", tf32)]
    # torch 2.9 and later, where mixing both interfaces raises errors
    on_gpu = [
        (owner, "fp32_precision", "tf32" if tf32 else "ieee") for owner in (backends.cuda.matmul, backends.cudnn.conv)
    ]  # type: ignore[attr-defined]
    on_cpu = [(owner, "fp32_precision", "ieee") for owner in (backends.mkldnn.matmul, backends.mkldnn.conv)]  # type: ignore[attr-defined]
    return [*on_gpu, *on_cpu]
