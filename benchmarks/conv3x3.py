"""The kernel of 3x3 convolutions against PyTorch's: `python benchmarks/conv3x3.py`, on one thread.

For each size: relative errors to float64 of both, and how many times as fast the kernel is in the values and in the derivatives by
input and by weight, in processor time, medians over alternating runs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.ops import conv3x3

SIZES = [
    (64, 32, 16),
    (64, 64, 16),
    (64, 64, 8),
    (64, 64, 4),
    (4, 256, 32),
    (4, 256, 16),
]  # images, channels, pixels a side
RUNS = 7


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def passes(impl: str, x: torch.Tensor, weight: torch.Tensor) -> list[Callable[[], torch.Tensor]]:
    """The values, and the derivatives by input and by weight."""
    by_input, by_weight = conv3x3.conv3x3(x, weight.detach(), impl=impl), conv3x3.conv3x3(x.detach(), weight, impl=impl)
    dy = torch.ones_like(by_input)
    return [
        lambda: conv3x3.conv3x3(x.detach(), weight.detach(), impl=impl),
        lambda: torch.autograd.grad(by_input, x, dy, retain_graph=True)[0],
        lambda: torch.autograd.grad(by_weight, weight, dy, retain_graph=True)[0],
    ]


def main() -> None:
    torch.set_num_threads(1)
    print("images, channels, pixels: error of the kernel, of PyTorch; times as fast in values, by input, by weight")
    for n, channels, side in SIZES:
        torch.manual_seed(0)
        x = torch.randn(n, channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
        exact = F.conv2d(x.detach().double(), weight.detach().double(), padding=1)
        ours, theirs = passes("cpu", x, weight), passes("ref", x, weight)
        errors = [float((call() - exact).norm() / exact.norm()) for call in (ours[0], theirs[0])]
        ratios = []
        for own, other in zip(ours, theirs, strict=True):
            pairs = [(seconds(other), seconds(own)) for _ in range(RUNS + 1)][1:]  # the first pair warms up
            ratios.append(statistics.median(before / after for before, after in pairs))
        figures = "  ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{n:3d} {channels:4d} {side:3d}:  {errors[0]:.1e}  {errors[1]:.1e}   {figures}", flush=True)


if __name__ == "__main__":
    main()
