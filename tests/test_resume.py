"""A run that was killed, stopped or damaged goes on, and ends in the very bits of one that nothing happened to."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from gan_refine.cli.refine import refine
from gan_refine.errors import UserError
from gan_refine.generators import StyleGan2
from runs import SMALL, assert_same_run, cpu_seconds, differences, last_checkpoint, wait_for, write_pair

KILLS = 8


@pytest.fixture(scope="module")
def whole(pair, commands, tmp_path_factory) -> tuple[Path, float]:
    """The folder of an uninterrupted run, and its seconds of processor time."""
    outdir = tmp_path_factory.mktemp("whole")
    ended = commands.run(*pair, *SMALL, f"--outdir={outdir}")
    assert ended.code == 0, ended.stderr
    return outdir / "00000-tiny", ended.cpu_seconds


def test_killed_at_random_moments_it_ends_in_the_same_bits(pair, commands, whole, tmp_path):
    """kill -9, eight times, wherever that strikes: in reading, evaluating, learning, writing."""
    moments = random.Random(0)
    folder = tmp_path / "00000-tiny"
    steps = []
    for _ in range(KILLS):
        begun = (folder / "options.json").is_file()
        if not begun:
            shutil.rmtree(folder, ignore_errors=True)
        arguments = [f"--resume={folder}"] if begun else [*pair, *SMALL, f"--outdir={tmp_path}"]
        pid = commands.start(*arguments, f"--snap-minutes={moments.uniform(0, 0.01)}")
        moment = moments.uniform(0, 0.8 * whole[1])
        while (now := cpu_seconds(pid)) is not None and now < moment:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):  # it has come to its end
            os.kill(pid, signal.SIGKILL)
        ended = commands.end()
        assert ended.code in (0, -signal.SIGKILL), ended.stderr
        steps.append(max([int(path.stem.split("-")[1]) for path in folder.glob("checkpoint-*.pt")], default=-1))
    assert steps == sorted(steps) and steps[-1] > 0, "what was reached stays reached"
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr
    assert ended.stdout == f"{folder / 'network-refined-best.pkl'}\n"
    assert_same_run(folder, whole[0])
    assert len(list(folder.iterdir())) <= len(list(whole[0].iterdir())) + 1, "nothing is left lying about"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_tells_how_to_go_on(number, pair, commands, whole, tmp_path):
    folder = tmp_path / "00000-tiny"
    ended = commands.stop(folder, *pair, *SMALL, f"--outdir={tmp_path}", number=number)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == f"python -m gan_refine refine --resume={folder}\n"
    assert f"Stopped by {number.name}" in ended.stderr and "Traceback" not in ended.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"] is False and 0 < summary["kimg"] < 0.08, "it was stopped before its end"
    assert last_checkpoint(folder)["state"]["counters"]["images"] == round(1000 * summary["kimg"])
    assert StyleGan2.load(folder / "network-refined-best.pkl").spec.resolution == 16
    assert not list(folder.glob("*.tmp"))
    assert commands.run("--resume=latest", f"--outdir={tmp_path}").code == 0
    assert_same_run(folder, whole[0])


STOP_IN_THE_FIRST_EVALUATION = """
import os, signal
from gan_refine.run.build import Run
measure = Run.measure
def stopped(self, *arguments, **options):
    results = measure(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGTERM)
    return results
Run.measure = stopped
"""


def test_a_run_that_is_stopped_before_the_original_is_measured_measures_it_later(pair, commands, whole, tmp_path):
    folder = tmp_path / "00000-tiny"
    ended = commands.run(*pair, *SMALL, f"--outdir={tmp_path}", before=STOP_IN_THE_FIRST_EVALUATION)
    assert ended.code == 0 and "Stopped by SIGTERM after 1 steps" in ended.stderr, ended.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["before"], summary["kimg"]) == (None, 0) and not list(folder.glob("metric-*"))
    assert "gan-refine evaluate" not in ended.stderr, "there is nothing to measure yet"
    assert commands.run(f"--resume={folder}").code == 0
    assert_same_run(folder, whole[0])


def test_a_finished_run_that_is_asked_to_go_on_only_reports(commands, whole):
    before = last_checkpoint(whole[0])
    ended = commands.run(f"--resume={whole[0]}")
    assert ended.code == 0
    assert ended.stdout == f"{whole[0] / 'network-refined-best.pkl'}\n"
    assert differences(last_checkpoint(whole[0]), before) == []


@pytest.fixture(scope="module")
def stopped(pair, commands, tmp_path_factory) -> Path:
    """The folder of a run that was killed in its middle, with at least two checkpoints beyond the first. Not to be changed."""
    outdir = tmp_path_factory.mktemp("stopped")
    folder = outdir / "00000-tiny"
    commands.stop(folder, *pair, *SMALL, f"--outdir={outdir}", "--keep=9", after=3)
    return folder


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_a_bit(data: bytes) -> bytes:
    place = len(data) // 3
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


TWO_THREADS = """
import os, torch
from gan_refine.cli import process
process.STARTED = None
os.environ.pop("OMP_NUM_THREADS", None)
torch.set_num_threads(2)
"""


def test_a_resumed_run_takes_the_threads_that_it_had(stopped, commands, whole, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / stopped.name)
    assert last_checkpoint(folder)["threads"] == 1
    ended = commands.run(f"--resume={folder}", before=TWO_THREADS)
    assert ended.code == 0 and "Threads: 1, as the run had before." in ended.stderr, ended.stderr
    assert last_checkpoint(folder)["threads"] == 1
    assert_same_run(folder, whole[0])


@pytest.mark.parametrize(
    "harm, word", [(truncate, "is torn"), (flip_a_bit, "is damaged"), (lambda data: b"", "is torn")]
)
def test_a_damaged_checkpoint_is_named_and_skipped(harm, word, stopped, commands, whole, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "00000-tiny"))
    *_, older, newest = sorted(folder.glob("checkpoint-*.pt"))
    newest.write_bytes(harm(newest.read_bytes()))
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr
    assert f"Skipped: {newest.name} {word}" in ended.stderr
    assert f"Resumed from {older.name}" in ended.stderr
    assert_same_run(folder, whole[0])


def test_without_a_whole_checkpoint_it_starts_again(stopped, commands, whole, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "00000-tiny"))
    for path in folder.glob("checkpoint-*.pt"):
        path.write_bytes(truncate(path.read_bytes()))
    (folder / "network-refined-best.pkl").unlink()
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr
    assert_same_run(folder, whole[0])


def test_a_best_pickle_of_a_state_that_was_lost_is_taken_back(stopped, commands, whole, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "00000-tiny"))
    (folder / "network-refined-best.pkl").write_bytes(b"from a future that the checkpoints do not know")
    (folder / "stats.jsonl").open("a").write('{"kimg": 999}\n{"kimg": 0.0')
    (folder / ".checkpoint-000000099.pt.1.tmp").write_bytes(b"half")
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr
    assert_same_run(folder, whole[0])
    assert not list(folder.glob(".*.tmp"))


def test_options_that_change_the_mathematics_may_not_differ_and_others_may(stopped, commands, pair, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "00000-tiny"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for argument, message in [
        ("--glr=0.1", "--glr=0.0003 (got --glr=0.1)"),
        ("--kimg=0.05", "--kimg=0.08 (got --kimg=0.05); leave them out; it may become longer, not shorter"),
        ("--batch-gpu=8", "--batch-gpu=4 (got --batch-gpu=8)"),
        ("--seed=1", "--seed=0 (got --seed=1)"),
        ("--objective=sds", "--objective=di-gan,"),
    ]:
        ended = commands.run(f"--resume={folder}", argument)
        assert ended.code == 2
        assert message in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    same = ["--glr=3e-4", "--snap=1", "--tick=0.024", "--keep=1", "--device=cpu"]
    assert commands.run(f"--resume={folder}", *same).code == 0
    assert len(list(folder.glob("checkpoint-*.pt"))) <= 2


def test_the_weights_do_not_depend_on_how_often_they_are_looked_at(pair, commands, whole, tmp_path):
    other = ["--snap=1", "--tick=0.02", "--snap-minutes=0.0001", "--metrics=none", "--clip-grad=1e9", "--recompute"]
    assert commands.run(*pair, *SMALL, *other, f"--outdir={tmp_path}").code == 0
    one, two = (last_checkpoint(folder)["state"] for folder in (tmp_path / "00000-tiny", whole[0]))
    for part in ("generator", "average", "objective", "optimizers"):
        assert differences(one[part], two[part]) == []


def test_another_file_under_the_same_name_is_refused(commands, pair, tmp_path):
    copies = [tmp_path / "gan.pkl", tmp_path / "teacher.pkl"]
    for copy, argument in zip(copies, pair, strict=True):
        shutil.copyfile(argument.partition("=")[2], copy)
    folder = tmp_path / "runs" / "00000-tiny"
    own = [f"--gan={copies[0]}", f"--teacher={copies[1]}"]
    commands.stop(folder, *own, *SMALL, f"--outdir={folder.parent}", after=1)
    (tmp_path / "other").mkdir()
    write_pair(tmp_path / "other", seed=1)
    shutil.copyfile(tmp_path / "other" / "gan.pkl", copies[0])
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 2
    assert "the file of --gan is not the one that checkpoint-" in ended.stderr


def test_two_runs_in_one_folder_the_second_refuses(pair, commands, tmp_path):
    folder = tmp_path / "00000-tiny"
    pid = commands.start(*pair, *SMALL, "--kimg=1000", f"--outdir={tmp_path}")
    wait_for(lambda: list(folder.glob("checkpoint-*.pt")), lambda: Path(f"/proc/{pid}").exists())
    second = CliRunner().invoke(refine, [f"--resume={folder}"])
    os.kill(pid, signal.SIGKILL)
    commands.end()
    assert isinstance(second.exception, UserError)
    assert f"another process is at work in {folder}" in str(second.exception)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--resume={tmp}/nowhere"], "is not a folder"),
        (["--resume={tmp}"], "holds no options.json"),
        (["--resume=latest", "--outdir={tmp}"], "finds no run below"),
        (["--resume={tmp}", "--dry-run"], "--dry-run is for new runs"),
    ],
)
def test_nothing_to_go_on_with_is_one_line_and_exit_code_2(arguments, message, commands, tmp_path):
    (tmp_path / "empty").mkdir()
    ended = commands.run(*(argument.format(tmp=tmp_path / "empty") for argument in arguments))
    assert ended.code == 2
    assert message in ended.stderr and len(ended.stderr.splitlines()) == 1
