"""What goes wrong in a run: numbers that are not finite, a full disk, a folder that cannot be written, a collapse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import Quadratic

from gan_refine.config import RefineOptions
from gan_refine.errors import NonFiniteError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import DiffInstruct, DiffInstructOptions
from gan_refine.refine import RefineState, advance
from gan_refine.refine.adam import Adam
from gan_refine.teachers import GaussianTeacher
from runs import SMALL, assert_same_run, last_checkpoint

SMALL = [*SMALL, "--objective=diff-instruct"]
SPEC = ImageSpec(1, 4)
TOY = RefineOptions(total_images=8 * 60, batch=8, batch_gpu=4, warmup_images=0, tick_images=8, max_skips=5)


class Weak(GaussianTeacher):
    """Gives NaN for every sample whose sigma is above 1.6, as an overflow would; its trainable copy does not."""

    def forward(self, noisy, sigma, labels):
        return torch.where(sigma > 1.6, float("nan"), super().forward(noisy, sigma, labels))


def until_it_stops(state: RefineState, poison=lambda state: None) -> tuple[int, str]:
    """Skipped steps and the diagnosis. `poison` acts after every step."""
    skipped = 0
    with pytest.raises(NonFiniteError) as caught:
        for progress in advance(state):
            skipped += progress.health.skipped_steps if progress else 0
            poison(state)
    return skipped, str(caught.value)


def test_a_network_that_breaks_at_some_noise_levels_is_named_with_them():
    options = DiffInstructOptions(sigma_mean=1.0)
    state = RefineState(AffineGenerator(0.5, 0.0, SPEC), DiffInstruct(Weak(0.5, 0.5, SPEC), options), TOY)
    skipped, message = until_it_stops(state)
    assert skipped >= TOY.max_skips
    assert "the teacher gives them" in message
    assert "step of the generator" in message and "band 1.6 to" in message
    assert state.is_finite()


@pytest.mark.parametrize("name", ["teacher", "score model", "generator"])
def test_a_poisoned_network_is_named_and_the_others_stay_as_they_were(name):
    objective = DiffInstruct(GaussianTeacher(1.0, 0.5, SPEC))
    generator = AffineGenerator(0.5, 0.0, SPEC)
    options = replace(TOY, warmup_images=8)
    state = RefineState(generator, objective, options)
    networks = {"teacher": objective.teacher, "score model": objective.score_model, "generator": generator}
    healthy: list[torch.Tensor] = []

    def poison(state: RefineState) -> None:
        if state.images == 32 and not healthy:
            healthy.append(generator.shift.detach().clone())
            next(networks[name].parameters()).data.fill_(float("nan"))

    skipped, message = until_it_stops(state, poison)
    assert skipped >= TOY.max_skips
    assert f"the {name} has weights that are not finite" in message
    assert state.is_finite() == (name == "teacher")
    if name == "teacher":
        assert torch.equal(generator.shift, healthy[0]), "skipped steps move nothing"
    assert bool(generator.shift.isfinite())


class GradientDescent(Adam):
    def step(self, rates: list[float], skip: torch.Tensor | None = None) -> None:
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= parameter.grad


def test_a_gradient_beyond_the_limit_is_scaled_down_to_it():
    moved = []
    for limit in (0.0, 1e-3):
        generator = AffineGenerator(0.5, 0.0, SPEC)
        options = replace(TOY, total_images=8, clip_grad=limit, glr=1.0, lr_rampup=0, lr_decay=0)
        state = RefineState(generator, Quadratic(scale=1600), options)
        state.optimizers["generator"] = GradientDescent([list(generator.parameters())], (0.0, 0.0))
        (progress,) = advance(state)
        assert progress.health.norms["generator"][0] > 1, "the norm that is reported is that before"
        moved.append((float(generator.scale.detach()) - 0.5) ** 2 + float(generator.shift.detach()) ** 2)
    assert moved[1] ** 0.5 == pytest.approx(1e-3, rel=1e-3)
    assert moved[0] > moved[1]


POISON = """
import gan_refine.refine.loop as loop
learn = loop._learn
def poisoned(state):
    if state.images == 64:
        network = {"teacher": state.objective.teacher, "score": state.objective.score_model, "generator": state.generator}
        next(network[NAME].parameters()).data.fill_(float("nan"))
    learn(state)
loop._learn = poisoned
"""


def test_a_run_whose_generator_breaks_keeps_its_last_good_checkpoint_and_goes_on_from_it(pair, commands, tmp_path):
    folder = tmp_path / "00000-tiny"
    ended = commands.run(*pair, *SMALL, f"--outdir={tmp_path}", before=POISON.replace("NAME", "'generator'"))
    assert ended.code == 2
    assert "the generator has weights that are not finite" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    state = last_checkpoint(folder)["state"]
    assert state["counters"]["images"] <= 64
    assert all(bool(tensor.isfinite().all()) for tensor in state["generator"].values())
    assert commands.run(f"--resume={folder}").code == 0
    assert commands.run(*pair, *SMALL, f"--outdir={tmp_path}").code == 0
    assert_same_run(folder, tmp_path / "00001-tiny")


def test_a_run_whose_teacher_breaks_saves_its_weights_as_they_were(pair, commands, tmp_path):
    folder = tmp_path / "00000-tiny"
    arguments = [*pair, *SMALL, "--kimg=0.2", "--max-skips=5", "--metrics=none", f"--outdir={tmp_path}"]
    ended = commands.run(*arguments, before=POISON.replace("NAME", "'teacher'"))
    assert ended.code == 2
    assert "the teacher has weights that are not finite" in ended.stderr.splitlines()[-1]
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr


FULL = """
import shutil, types
from gan_refine import files
calls = []
def disk_usage(path):
    calls.append(path)
    return types.SimpleNamespace(free=2**40 if len(calls) <= ROOM else 1000)
files.shutil = types.SimpleNamespace(disk_usage=disk_usage, copyfileobj=shutil.copyfileobj)
"""
SHORT_FILES = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".pt", ".pkl", ".json")}


@pytest.mark.parametrize("room, what", [(0, "this run needs"), (3, "the next checkpoint needs")])
def test_a_disk_without_room_is_found_out_before_it_is_full(room, what, pair, commands, tmp_path):
    ended = commands.run(*pair, *SMALL, f"--outdir={tmp_path}", before=FULL.replace("ROOM", str(room)))
    assert ended.code == 2
    assert what in ended.stderr and "make room there" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert len(list((tmp_path / "00000-tiny").glob("checkpoint-*.pt"))) == max(room - 1, 0)


def test_a_write_that_fails_leaves_every_earlier_file_intact(pair, commands, tmp_path):
    """The system refuses to write more than 40 kB to a file: what a full disk does, in the middle of a checkpoint."""
    folder = tmp_path / "00000-tiny"
    commands.stop(folder, *pair, *SMALL, f"--outdir={tmp_path}")
    before = contents(folder)
    ended = commands.run(f"--resume={folder}", before=SHORT_FILES)
    assert ended.code == 2
    assert "cannot" in ended.stderr.splitlines()[-1] and "File too large" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    assert not list(folder.glob(".*.tmp"))
    assert commands.run(f"--resume={folder}").code == 0


READ_ONLY = """
import ctypes, os
libc = ctypes.CDLL(None)
if os.geteuid() == 0:  # who may write everywhere; a mount of this process alone stops even root
    assert libc.unshare(0x20000) == 0, "no mounts"
    libc.mount(b"none", b"/", None, 16384 | 262144, None)
    libc.mount(FOLDER, FOLDER, None, 4096, None)
    libc.mount(FOLDER, FOLDER, None, 4096 | 32 | 1, None)
"""


def test_a_read_only_run_folder_is_one_line(pair, commands, tmp_path):
    folder = tmp_path / "00000-tiny"
    commands.stop(folder, *pair, *SMALL, f"--outdir={tmp_path}")
    before = contents(folder)
    folder.chmod(0o555)
    for name in (".lock", "log.txt"):
        (folder / name).chmod(0o444)
    ended = commands.run(f"--resume={folder}", before=READ_ONLY.replace("FOLDER", repr(bytes(folder))))
    folder.chmod(0o755)
    if "no mounts" in ended.stderr:
        pytest.skip("root may write everywhere, and this system lets it make no mounts")
    assert ended.code == 2
    assert f"cannot write to {folder}" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert contents(folder) == before


def test_a_run_that_collapses_stops_and_keeps_the_best(pair, commands, tmp_path):
    collapsing = ["--snap=1", "--glr=0.01", "--stop-on-collapse=1.005"]
    ended = commands.run(*pair, *SMALL, *collapsing, f"--outdir={tmp_path}")
    assert ended.code == 0, ended.stderr
    assert "Stopped: the metric went from" in ended.stderr
    folder = tmp_path / "00000-tiny"
    assert last_checkpoint(folder)["state"]["counters"]["images"] < 80
    original = Path(pair[0].partition("=")[2]).read_bytes()
    assert (folder / "network-refined-best.pkl").read_bytes() == original, "the best, not the last"
