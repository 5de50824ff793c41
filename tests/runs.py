"""A tiny pair of networks, and real processes that run the command on it: forked from one that has torch loaded already.

Loading torch costs seconds, so every test that needs no more than a process of its own forks it here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from toys import small_unet

from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import write_networks

ROOT = Path(__file__).parent.parent

# 10 steps of the generator after 2 steps of warm-up; a snapshot every 3 steps.
SMALL = ["--kimg=0.08", "--batch=8", "--batch-gpu=4", "--warmup-kimg=0.016", "--tick=0.008"]
SMALL += [
    "--no-report",
    "--snap=3",
    "--ema-kimg=0.05",
    "--eval-images=32",
    "--teacher-steps=0",
    "--fid-seeds=1",
    "--device=cpu",
    "--desc=tiny",
    "--objective=di-gan,imagenet=0,samples=64,steps=2,window=16",
]

SERVER = """
import json, os, signal, sys, traceback
import torch
torch.set_num_threads(1)

def command():
    import run_refine
    from gan_refine.cli.main import run_command
    return run_command(run_refine.cli)

def work(job, rank):
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name] + str(rank), os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    os.environ.update(job["environment"], RANK=str(rank), LOCAL_RANK=str(rank))
    for name in job["unset"]:
        os.environ.pop(name, None)
    sys.argv = ["run_refine.py", *(job["arguments"] or [])]
    code = 1
    try:
        exec(job["script"], {"rank": rank, "__name__": "__main__"})
        code = 0 if job["arguments"] is None else command()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    job = json.loads(line)
    pids = []
    for rank in range(job["processes"]):
        pids.append(os.fork())
        if pids[-1] == 0:
            work(job, rank)
    print(*pids, flush=True)
    codes, seconds = {}, 0.0
    for _ in pids:
        pid, status, usage = os.wait4(-1, 0)
        codes[pid] = os.waitstatus_to_exitcode(status)
        seconds += usage.ru_utime + usage.ru_stime
    print(*(codes[pid] for pid in pids), seconds, flush=True)
"""


@dataclass
class Ended:
    """How the processes of a command ended, in order of rank; a signal's number is negative. Texts are those of rank 0."""

    codes: list[int]
    cpu_seconds: float
    stdout: str
    stderr: str

    @property
    def code(self) -> int:
        return self.codes[0]


class Commands:
    """Runs `run_refine.py` or a script, one at a time, in one or several processes, each the leader of a group."""

    def __init__(self, folder: Path, preload: str = "scipy.special, run_refine, gan_refine.run.launch") -> None:
        """`preload` names modules whose seconds the processes need not spend; they are then in the state of the import."""
        self.folder = folder
        self.server = subprocess.Popen(
            [sys.executable, "-c", f"import {preload}\n{SERVER}"],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str, before: str = "", processes: int = 1) -> int:
        """Starts a command and returns the first process's id. `before` is Python that knows its `rank` and runs first."""
        return self._start(list(arguments), before, processes, {})

    def start_script(
        self, script: str, environment: dict[str, str], processes: int = 1, unset: tuple[str, ...] = ()
    ) -> int:
        """Starts a Python script in the project's root."""
        return self._start(None, script, processes, environment, unset)

    def script(
        self, script: str, environment: dict[str, str], processes: int = 1, unset: tuple[str, ...] = ()
    ) -> "Ended":
        self.start_script(script, environment, processes, unset)
        return self.end()

    def _start(
        self,
        arguments: list[str] | None,
        script: str,
        processes: int,
        environment: dict[str, str],
        unset: tuple[str, ...] = (),
    ) -> int:
        job = {"arguments": arguments, "script": script, "processes": processes}
        job |= {"environment": {**meeting_place(processes), **environment}, "unset": unset}
        job |= {name: str(self.folder / name) for name in ("stdout", "stderr")}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline().split()[0])

    def end(self) -> Ended:
        """Waits for all processes of the command started last."""
        *codes, seconds = self.server.stdout.readline().split()
        return Ended([int(code) for code in codes], float(seconds), self.said("stdout"), self.said("stderr"))

    def run(self, *arguments: str, before: str = "", processes: int = 1) -> Ended:
        self.start(*arguments, before=before, processes=processes)
        return self.end()

    def stop(
        self, folder: Path, *arguments: str, number: int = signal.SIGKILL, after: int = 2, processes: int = 1
    ) -> Ended:
        """Sends a signal to the run of these arguments once so many checkpoints are in `folder`, where it works."""
        pid = self.start(*arguments, processes=processes)
        wait_for(lambda: len(list(folder.glob("checkpoint-*.pt"))) >= after, lambda: Path(f"/proc/{pid}").exists())
        os.kill(pid, number)
        ended = self.end()
        if number == signal.SIGKILL:
            assert ended.code == -signal.SIGKILL, "it ended before it was killed"
        return ended

    def said(self, name: str, rank: int = 0) -> str:
        return (self.folder / f"{name}{rank}").read_text()

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()


def meeting_place(processes: int) -> dict[str, str]:
    """Variables by which several processes find each other on the loopback device; none for one."""
    if processes == 1:
        return {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {**shared, "GLOO_SOCKET_IFNAME": "lo"}


def write_pair(
    folder: Path, seed: int = 0, resolution: int = 16, teacher_resolution: int = 16, channels: int = 1
) -> list[str]:
    """Arguments that name a generator and a teacher, by default of grey images, of some thousand weights each."""
    torch.manual_seed(seed)
    widths = {"channel_base": 2 * resolution, "channel_max": 4}
    make = lambda: Generator(8, 0, 8, resolution, channels, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=widths)  # noqa: E731
    networks = {
        "G": make(),
        "D": Discriminator(0, resolution, channels, architecture="orig", **widths),
        "G_ema": make(),
    }
    write_networks(folder / "gan.pkl", {**networks, "training_set_kwargs": None, "augment_pipe": None})
    write_networks(folder / "teacher.pkl", {"ema": small_unet(teacher_resolution, channels, channel_mult=[1])})
    return [f"--gan={folder / 'gan.pkl'}", f"--teacher={folder / 'teacher.pkl'}"]


def last_checkpoint(folder: Path) -> dict:
    """The content of the newest checkpoint file."""
    return torch.load(max(folder.glob("checkpoint-*.pt")), weights_only=True)


def differences(one: object, other: object, path: str = "") -> list[str]:
    """Where two nested records of tensors, numbers and texts differ."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.shape == other.shape and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{path}.{key}" for key in one.keys() ^ other.keys()]
        return found + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{path}.{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other, strict=True)) for d in differences(*pair, f"{path}[{i}]")]
    return [] if one == other else [path]


def figures(folder: Path) -> list[list[dict]]:
    """The JSON lines of a run folder without their times."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found.append(
            [{key: value for key, value in line.items() if "time" not in key and key != "seconds"} for line in lines]
        )
    return found


def assert_same_run(folder: Path, other: Path) -> None:
    """Final weights, moments, counters, curves and the refined pickle are the same bits."""
    one, two = last_checkpoint(folder), last_checkpoint(other)
    assert differences(one["state"], two["state"]) == []
    assert figures(folder) == figures(other)
    for name in ("best", "last"):
        assert (folder / f"network-refined-{name}.pkl").read_bytes() == (
            other / f"network-refined-{name}.pkl"
        ).read_bytes()


def cpu_seconds(pid: int) -> float | None:
    """Of processor time that a process has taken: how far it is, however busy the machine. None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(condition, process_alive, patience: float = 120) -> None:
    """Returns when the condition holds; fails if the process ends before, or never gets there."""
    deadline = time.time() + patience
    while not condition():
        assert process_alive(), "the process ended early"
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.02)
