"""Runs in several processes that talk over the loopback device: the figures of one, one end for all, torchrun's restarts."""

import json
import re
import signal
from pathlib import Path

import pytest
import torch

from runs import SMALL, Commands, figures, last_checkpoint

# Without a distance in features, whose tiny gradients Adam would scale to steps of full size, rounding errors included.
PLAIN = [*SMALL, "--batch-gpu=2", "--objective=diff-instruct"]
WEIGHTS_TOLERANCE = 1e-4  # after 10 steps of Adam, of which each sums in another order
CURVES_TOLERANCE = 1e-3
METRIC_TOLERANCE = 1e-6  # of one generator


@pytest.fixture(scope="module")
def alone(pair, commands, tmp_path_factory) -> Path:
    """The folder of a run in one process."""
    outdir = tmp_path_factory.mktemp("alone")
    ended = commands.run(*pair, *PLAIN, f"--outdir={outdir}")
    assert ended.code == 0, ended.stderr
    return outdir / "00000-tiny"


def weights(folder: Path) -> torch.Tensor:
    state = last_checkpoint(folder)["state"]
    return torch.cat([t.flatten() for part in ("generator", "average", "objective") for t in state[part].values()])


def close(one: object, other: object, tolerance: float) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    numbers = isinstance(one, float | int) and isinstance(other, float | int)
    return one == pytest.approx(other, rel=tolerance, abs=tolerance) if numbers else one == other


def run_in(processes: int, pair: list[str], commands: Commands, outdir: Path) -> Path:
    """The folder of a run in several processes, of which the first speaks for all."""
    ended = commands.run(*pair, *PLAIN, f"--outdir={outdir}", processes=processes)
    assert ended.codes == [0] * processes, ended.stderr
    assert ended.stdout == f"{outdir / '00000-tiny' / 'network-refined-best.pkl'}\n"
    assert all(commands.said("stdout", rank) == "" for rank in range(1, processes))
    return outdir / "00000-tiny"


@pytest.fixture(scope="module")
def two(pair, commands, tmp_path_factory) -> Path:
    """The folder of a run in two processes."""
    return run_in(2, pair, commands, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_make_the_run_of_one(processes, pair, commands, alone, two, tmp_path):
    folder = two if processes == 2 else run_in(processes, pair, commands, tmp_path)
    assert float((weights(folder) - weights(alone)).abs().max()) <= WEIGHTS_TOLERANCE
    assert close(figures(folder), figures(alone), CURVES_TOLERANCE), "the curves of loss and distance"
    for path in alone.glob("metric-*.jsonl"):
        first, mine = (json.loads(place.read_text().splitlines()[0]) for place in (path, folder / path.name))
        assert close(first["results"], mine["results"], METRIC_TOLERANCE), "the same generator, measured together"


def test_a_signal_to_one_of_them_stops_all_and_tells_how_all_go_on(pair, commands, alone, tmp_path):
    folder = tmp_path / "00000-tiny"
    ended = commands.stop(folder, *pair, *PLAIN, f"--outdir={tmp_path}", number=signal.SIGTERM, processes=2)
    assert ended.codes == [0, 0], ended.stderr
    assert ended.stdout == f"torchrun --nproc-per-node=2 -m gan_refine refine --resume={folder}\n"
    assert last_checkpoint(folder)["state"]["counters"]["images"] < 80, "it was stopped before its end"
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, "a run of two goes on in one: " + ended.stderr
    assert float((weights(folder) - weights(alone)).abs().max()) <= WEIGHTS_TOLERANCE


def test_bad_input_is_one_message_and_exit_code_2_for_all(pair, commands, tmp_path):
    ended = commands.run(*pair, *PLAIN, "--batch=6", "--batch-gpu=6", f"--outdir={tmp_path}", processes=2)
    assert ended.codes == [2, 2]
    *notices, error = ended.stderr.splitlines()
    assert "cannot be divided among 2 processes" in error
    assert [line.partition(":")[0] for line in notices] == ["GAN", "Preset"]
    assert "Traceback" not in commands.said("stderr", 1)


FAILING = """
import gan_refine.refine.loop as loop
from gan_refine.errors import UserError
learn = loop._learn
def failing(state):
    if state.images == 64 and rank == 1:
        HOW
    learn(state)
loop._learn = failing
"""


@pytest.mark.parametrize(
    "how, code", [("raise UserError('the second has had enough')", 2), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_one_that_fails_ends_all_promptly(how, code, pair, commands, tmp_path):
    ended = commands.run(*pair, *PLAIN, f"--outdir={tmp_path}", before=FAILING.replace("HOW", how), processes=2)
    assert ended.codes == [1, code]
    assert "error: process 0 lost the connection to the others" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    if code == 2:
        assert "error (process 1): the second has had enough" in commands.said("stderr", 1)


def test_a_replica_that_drifts_is_found_at_the_next_snapshot(pair, commands, tmp_path):
    drift = FAILING.replace("HOW", "next(state.generator.parameters()).data.add_(1e-3)")
    ended = commands.run(*pair, *PLAIN, f"--outdir={tmp_path}", before=drift, processes=2)
    assert ended.codes == [2, 2]
    assert "the replicas have drifted apart: generator" in ended.stderr.splitlines()[-1]


# What `torchrun --standalone --nproc-per-node=2 --max-restarts=1` does, but its workers are forked: they need not load torch.
TORCHRUN = """
import os, signal, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
import gan_refine.refine.loop as loop
from gan_refine.cli.main import run_command
import run_refine
learn = loop._learn
def dying(state):
    if state.images == 64 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    learn(state)
loop._learn = dying
def work():
    sys.argv[1:] = ARGUMENTS
    code = run_command(run_refine.cli)
    sys.stdout.flush()
    assert code == 0
place = {"run_id": "test", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
elastic_launch(LaunchConfig(1, 1, nproc_per_node=2, max_restarts=1, start_method="fork", **place), work)()
"""


def test_torchrun_starts_a_killed_run_again_and_it_ends_as_if_nothing_had_been(pair, commands, two, tmp_path):
    arguments = [*pair, *PLAIN, f"--outdir={tmp_path}"]
    killed = commands.script(TORCHRUN.replace("ARGUMENTS", repr(arguments)), {"GLOO_SOCKET_IFNAME": "lo"})
    assert killed.code == 0, killed.stderr
    (folder,) = tmp_path.iterdir()
    assert re.search(r"Resumed from checkpoint-\d+\.pt", killed.stderr)
    assert killed.stdout.splitlines()[-1] == str(folder / "network-refined-best.pkl")
    assert torch.equal(weights(folder), weights(two))
    assert figures(folder) == figures(two)
