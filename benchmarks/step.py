"""What one Diff-Instruct step costs: `python benchmarks/step.py --size=fashion16 [--reference] [--device=cuda]`.

A step trains the score model and the generator on fresh batches (Algorithm 1 of arXiv:2305.18455) with random networks of a
known size, through the functions of gan_refine.refine. Prints images a second, peak memory, FLOP/s beside a matrix product of the
same run (in bfloat16 on GPUs) and, on a CPU, time by part. `--reference` runs, in turn with it, the published formulation: NCHW,
plain blocks, two passes of the generator, Adam and weight average tensor by tensor, exact float32, on CPUs without our kernels.
Times are processor time on one thread, else elapsed time; medians. FLOP are those of direct convolutions: the kernel of 3x3 ones
needs fewer.
"""

import copy
import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.cli.process import keep_memory
from gan_refine.config import RefineOptions
from gan_refine.foundation import custom_ops
from gan_refine.fused_blocks import unfuse_blocks
from gan_refine.generators import StyleGan2
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Generator
from gan_refine.objectives import build_objective
from gan_refine.precision import PRECISIONS, float32_products, resolve_precision
from gan_refine.refine import RefineState, advance, gradients, loop
from gan_refine.teachers import EdmTeacher, in_precision


@dataclass(frozen=True)
class Size:
    """Constructor arguments of both networks, and a batch that fits a small machine."""

    resolution: int
    channels: int
    unet: dict[str, object]
    w_dim: int
    mapping_layers: int
    channel_base: int
    channel_max: int
    batch: int


SIZES = {
    "fashion16": Size(
        16,
        1,
        {"model_channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [8]},
        64,
        2,
        1024,
        64,
        64,
    ),
    "emoji32": Size(
        32,
        3,
        {"model_channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1, "attn_resolutions": [16]},
        64,
        2,
        2048,
        64,
        32,
    ),
    "cifar10": Size(32, 3, {"model_channels": 128, "channel_mult": [2, 2, 2]}, 512, 2, 65536, 512, 4),
    "ffhq64": Size(64, 3, {"model_channels": 128, "channel_mult": [1, 2, 2, 2]}, 512, 8, 32768, 512, 2),
}
# Parts of a step, and the modules that call them.
PARTS = dict.fromkeys(("auxiliary_gradient", "generator_gradient", "joint_gradient"), gradients) | {
    "optimizer_step": loop
}


def networks(size: Size) -> tuple[StyleGan2, EDMPrecond]:
    torch.manual_seed(0)
    unet = EDMPrecond(size.resolution, size.channels, model_type="SongUNet", **size.unet)
    gan = Generator(
        size.w_dim,
        0,
        size.w_dim,
        size.resolution,
        size.channels,
        mapping_kwargs={"num_layers": size.mapping_layers},
        synthesis_kwargs={"channel_base": size.channel_base, "channel_max": size.channel_max},
    )
    return StyleGan2(gan), unet


class Ours:
    """The loop of gan_refine, and the seconds of its parts."""

    def __init__(self, size: Size, batch: int, device: str, joint: bool, precision: str) -> None:
        generator, unet = networks(size)
        spec = "diff-instruct,joint=true" if joint else "diff-instruct"
        objective = build_objective(spec, in_precision(EdmTeacher(unet), precision)).to(device)
        options = RefineOptions(
            total_images=10**9,
            tick_images=10**9,
            batch=batch,
            batch_gpu=batch,
            warmup_images=0,
            glr=1e-4,
        )
        self.work = advance(RefineState(generator.to(device), objective, options))
        self.seconds: dict[str, list[float]] = {}
        self.clock = clock_of(device)
        self.tf32 = precision != "fp32"
        timed = PARTS if device == "cpu" else ()  # on a GPU the clock would wait for it
        self.originals = {name: getattr(PARTS[name], name) for name in timed}

    def step(self) -> None:
        with float32_products(self.tf32):
            self._step()

    def _step(self) -> None:
        spent = dict.fromkeys(PARTS, 0.0)
        for name, call in self.originals.items():
            setattr(PARTS[name], name, self._timed(name, call, spent))
        try:
            next(self.work)
        finally:
            for name, call in self.originals.items():
                setattr(PARTS[name], name, call)
        for name, seconds in spent.items():
            self.seconds.setdefault(name, []).append(seconds)

    def _timed(self, name: str, call: Callable[..., None], spent: dict[str, float]) -> Callable[..., None]:
        def timed(*arguments: object) -> None:
            started = self.clock()
            call(*arguments)
            spent[name] += self.clock() - started

        return timed


class Reference:
    """The same step as the published code formulates it."""

    def __init__(self, size: Size, batch: int, device: str) -> None:
        generator, unet = networks(size)
        self.batch, self.device = batch, device
        self.generator = generator.net.to(device)
        self.teacher = unet.eval().requires_grad_(False).to(device)
        unfuse_blocks(self.teacher)
        self.score_model = copy.deepcopy(self.teacher).requires_grad_(True)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        adam = {"lr": 1e-5, "betas": (0.0, 0.999), "foreach": False, "fused": False}
        self.score_adam = torch.optim.Adam(self.score_model.parameters(), **adam)
        self.adam = torch.optim.Adam(self.generator.parameters(), **adam)

    def fake(self) -> torch.Tensor:
        z = torch.randn([self.batch, self.generator.z_dim], device=self.device)
        return self.generator(z, None)

    def noisy(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = (torch.randn([self.batch, 1, 1, 1], device=self.device) * 1.2 - 1.2).exp()
        return images + sigma * torch.randn_like(images), sigma

    def step(self) -> None:
        # On CPUs the published operations have no kernels.
        with float32_products(tf32=False), kernels("ref" if self.device == "cpu" else "auto"):
            self._step()

    def _step(self) -> None:
        with torch.no_grad():
            fake = self.fake()
        noisy, sigma = self.noisy(fake)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        (weight * (self.score_model(noisy, sigma) - fake) ** 2).mean().backward()
        self.score_adam.step()
        self.score_adam.zero_grad(set_to_none=True)
        fake = self.fake()
        with torch.no_grad():
            noisy, sigma = self.noisy(fake)
            push = self.score_model(noisy, sigma) - self.teacher(noisy, sigma)
        (push * fake).sum().div(self.batch).backward()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for mine, theirs in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mine.copy_(theirs.lerp(mine, 0.99))


@contextmanager
def kernels(impl: str) -> Iterator[None]:
    """What operations take that choose by themselves."""
    before, custom_ops.ENVIRONMENT_IMPL = custom_ops.ENVIRONMENT_IMPL, impl
    try:
        yield
    finally:
        custom_ops.ENVIRONMENT_IMPL = before


def clock_of(device: str) -> Callable[[], float]:
    """Processor time on one thread: the same on a busy machine as on an idle one; else elapsed time."""
    if device != "cpu":

        def synchronized() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return synchronized
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def ceiling(device: str) -> float:
    """FLOP/s of a matrix product: of bfloat16 on a GPU, of float32 on a CPU."""
    n, dtype, clock = (
        (1024, torch.float32, clock_of(device)) if device == "cpu" else (8192, torch.bfloat16, clock_of(device))
    )
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(5):
        started = clock()
        a @ b
        times.append(clock() - started)
    return 2 * n**3 / statistics.median(times)


def peak_memory(device: str, call: Callable[[], None]) -> str:
    """MiB at most while `call` runs: of the device, or resident memory on Linux."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        call()
        return f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
    status = Path("/proc/self/status")
    if not status.exists():
        call()
        return "unknown"
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # what glibc keeps of earlier calls counts for none of them
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    call()
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return f"{int(peak.split()[1]) / 1024:.0f} MiB resident"


@click.command(help=__doc__)
@click.option("--size", type=click.Choice(list(SIZES)), default="fashion16", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=None, help="Images a step.  [default: the size's]")
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="Steps of each after the first.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--joint", is_flag=True, help="One batch for both updates, the option joint=true of diff-instruct.")
@click.option("--reference", is_flag=True, help="Run the published formulation in turn.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True, help="Of gan_refine alone."
)
@click.option("--profile", is_flag=True, help="Also profile three steps.")
def main(
    size: str,
    batch: int | None,
    steps: int,
    threads: int,
    device: str,
    joint: bool,
    reference: bool,
    precision: str,
    profile: bool,
) -> None:
    precision = resolve_precision(precision, device)
    keep_memory()
    torch.set_num_threads(threads)
    batch = batch or SIZES[size].batch
    ours = Ours(SIZES[size], batch, device, joint, precision)
    runs: dict[str, Callable[[], None]] = {"gan_refine": ours.step}
    if reference:
        runs["reference"] = Reference(SIZES[size], batch, device).step
    machine = platform.machine() if device == "cpu" else torch.cuda.get_device_name(device)
    click.echo(f"{size}, batch {batch}, {precision}, {threads} thread(s), torch {torch.__version__}, {machine}")
    flops: dict[str, float] = {}
    for name, step in runs.items():
        with FlopCounterMode(display=False) as counter, kernels("ref"):  # it does not see into ours
            step()
        flops[name] = counter.get_total_flops()
    memory = {name: peak_memory(device, step) for name, step in runs.items()}
    clock, times, rates = clock_of(device), {name: [] for name in runs}, []
    for _ in range(steps):
        rates.append(ceiling(device))
        for name, step in runs.items():
            started = clock()
            step()
            times[name].append(clock() - started)
    report(times, flops, memory, batch, statistics.median(rates))
    for name, seconds in ours.seconds.items():
        if any(seconds[2:]):
            click.echo(f"  {name}: {1000 * statistics.median(seconds[2:]) / batch:.2f} ms an image")
    if reference:
        ratios = [theirs / own for theirs, own in zip(times["reference"], times["gan_refine"], strict=True)]
        click.echo(f"gan_refine is {statistics.median(ratios):.2f} times as fast as the reference")
    if profile:
        profile_steps(ours.step, device)


def profile_steps(step: Callable[[], None], device: str) -> None:
    """Prints the operations that take most of three steps, by their own time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [] if device == "cpu" else [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(3):
            step()
        if device != "cpu":
            torch.cuda.synchronize()
    order = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    click.echo(found.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=50))


def report(
    times: dict[str, list[float]], flops: dict[str, float], memory: dict[str, str], batch: int, rate: float
) -> None:
    for name, seconds in times.items():
        taken = statistics.median(seconds)
        share = flops[name] / taken / rate
        click.echo(
            f"{name}: {batch / taken:.1f} images/s, {1000 * taken / batch:.2f} ms an image, {flops[name] / batch / 1e6:.0f} "
            f"MFLOP an image, {100 * share:.0f} % of {rate / 1e9:.0f} GFLOP/s, {memory[name]}"
        )


if __name__ == "__main__":
    main()
