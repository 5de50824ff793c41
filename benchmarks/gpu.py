"""All that a GPU can show, in one call of ten minutes: `python benchmarks/gpu.py [--published=FOLDER]`.

Times a Diff-Instruct step at CIFAR-10 size in each precision beside the published formulation, with profiles (benchmarks/step.py);
builds the CUDA kernels, runs every test marked gpu, and prints the bandwidth that each operation reaches as a share of that of a
copy on the device. FOLDER is a checkout of stylegan2-ada-pytorch; its plugins are then built and timed too.
With `--device=cpu --size=fashion16` the steps alone run.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import torch

ROOT = Path(__file__).parent.parent
GOAL = 0.8
CALLS = 5  # between two events
SHAPES = [(32, 128, 256, 256), (32, 512, 64, 64), (8, 32, 1024, 1024)]  # beyond any second-level cache
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def milliseconds(call: Callable[[], object]) -> float:
    """Time of a call on the device: the median of 10 runs of CALLS after 2, so that the host's part of a call is hidden."""
    times = []
    for _ in range(12):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return statistics.median(times[2:])


def cases(x: torch.Tensor, **impl: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Of whichever torch_utils is first on the path: ours and the published one have the same signatures."""
    from torch_utils.ops import bias_act, upfirdn2d

    b = torch.randn(x.shape[1], device=x.device, dtype=x.dtype)
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=x.device)
    return {
        "bias_act lrelu": lambda: bias_act.bias_act(x, b, act="lrelu", clamp=256, **impl),
        "bias_act linear": lambda: bias_act.bias_act(x, b, gain=0.5, **impl),
        "upfirdn2d 1x": lambda: upfirdn2d.upfirdn2d(x, f, padding=[2, 1, 2, 1], **impl),
        "upfirdn2d up 2": lambda: upfirdn2d.upsample2d(x, f, **impl),
        "upfirdn2d down 2": lambda: upfirdn2d.downsample2d(x, f, **impl),
    }


def measure() -> dict[str, float]:
    """Milliseconds of every case, all with impl='cuda'."""
    found: dict[str, float] = {}
    for shape in SHAPES:
        for name, dtype in DTYPES.items():
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=layout)
                for case, call in cases(x, impl="cuda").items():
                    where = f"{case:17} {shape} {name} {str(layout).removeprefix('torch.')}"
                    try:
                        found[where] = milliseconds(call)
                    except (RuntimeError, AssertionError) as error:  # the published kernels know no bfloat16
                        click.echo(f"{where}: {' '.join(str(error).split())[:100]}", err=True)
    return found


def moved_bytes(where: str) -> float:
    """What the case reads and writes at least."""
    shape = [int(part) for part in where[where.index("(") + 1 : where.index(")")].split(",")]
    size = torch.Size(shape).numel() * (4 if "float32" in where else 2)
    return size * (5 if "up 2" in where else 1.25 if "down 2" in where else 2)


def copy_rate() -> float:
    """Bytes a millisecond, read and written, of a copy of 1 GiB on the device."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source))


def measured_in(folder: Path) -> dict[str, float]:
    """`measure` in a process of its own, with the torch_utils of that folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(Path(__file__).resolve()), "--only-measure"]
    done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@click.command(help=__doc__)
@click.option(
    "--published", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A checkout to compare."
)
@click.option("--only-measure", is_flag=True, hidden=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--size", default="cifar10", show_default=True, help="Of benchmarks/step.py.")
@click.option("--batch", type=int, default=128, show_default=True, help="Images of a step.")
def main(published: Path | None, only_measure: bool, device: str, size: str, batch: int) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device here; --device=cpu --size=fashion16 times steps alone")
    if only_measure:
        click.echo(json.dumps(measure()))
        return
    time_steps(device, size, batch)
    if device == "cuda":
        sys.exit(check_kernels(published))


def time_steps(device: str, size: str, batch: int) -> None:
    """benchmarks/step.py in each precision of the device, beside the reference and with a profile."""
    base = [
        sys.executable,
        "benchmarks/step.py",
        f"--size={size}",
        f"--batch={batch}",
        f"--device={device}",
        "--profile",
    ]
    for precision in ("bf16", "tf32", "fp32") if device == "cuda" else ("fp32",):
        subprocess.run([*base, f"--precision={precision}", "--reference"], cwd=ROOT, check=True)


def check_kernels(published: Path | None) -> int:
    """Builds, tests and times them; returns the exit code of the tests."""
    properties = torch.cuda.get_device_properties(0)
    click.echo(f"{properties.name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    subprocess.run([sys.executable, "-m", "torch_utils.custom_ops", "--build=cuda"], cwd=ROOT, check=True)
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], cwd=ROOT, check=False)
    ours, rate = measured_in(ROOT), copy_rate()
    click.echo(f"a copy on the device: {rate / 1e6:.0f} GB/s")
    below = 0
    for where, taken in ours.items():
        share = moved_bytes(where) / taken / rate
        below += share < GOAL
        click.echo(f"{where}: {taken:.3f} ms, {100 * share:.0f} % of a copy")
    click.echo(
        f"{below} of {len(ours)} below {100 * GOAL:.0f} %; tests: {'passed' if tests.returncode == 0 else 'FAILED'}"
    )
    if published:
        theirs = measured_in(published.resolve())
        ratios = {where: theirs[where] / taken for where, taken in ours.items() if where in theirs}
        for where, ratio in ratios.items():
            click.echo(f"{where}: {ratio:.2f}x as fast as the published kernel")
        click.echo(
            f"median {statistics.median(ratios.values()):.2f}x, least {min(ratios.values()):.2f}x of {len(ratios)}"
        )
    return tests.returncode


if __name__ == "__main__":
    main()
