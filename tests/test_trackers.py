"""--tensorboard and --wandb: every figure arrives, names are plain, a missing package is told before the run."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from gan_refine.errors import UserError
from gan_refine.run import trackers
from gan_refine.run.folder import RunFolder
from gan_refine.run.options import RunOptions
from gan_refine.run.trackers import check_trackers, figures_of, open_trackers


class Wandb(ModuleType):
    """Stands in for the package and remembers what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict] = []
        self.lines: list[dict] = []
        self.finished = 0

    def init(self, **options: object) -> SimpleNamespace:
        self.started.append(options)
        return SimpleNamespace(log=self.lines.append, finish=self.finish)

    def finish(self) -> None:
        self.finished += 1


def test_lines_of_a_run_arrive_as_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    opened = open_trackers(RunOptions(wandb=True), tmp_path, writes=True)
    folder = RunFolder(tmp_path, trackers=opened)
    folder.append("stats.jsonl", {"kimg": 0.128, "nats": [None, 0.5], "remaining_nats": None, "glr": 1e-3})
    folder.append(
        "metric-fd.jsonl", {"kimg": 0.256, "results": {"fd": 4.5}, "snapshot": "x", "convention": {"ddof": 1}}
    )
    assert fake.lines == [{"nats/band1": 0.5, "glr": 1e-3, "images": 128}, {"fd": 4.5, "images": 256}]
    other = tmp_path / "other" / tmp_path.name
    for folder in (tmp_path, other):
        for tracker in open_trackers(RunOptions(wandb=True), folder, writes=True):
            tracker.close()
    first, again, elsewhere = (started["id"] for started in fake.started)
    assert first == again != elsewhere, "a resumed run goes on in its own, and no other does"
    for tracker in opened:
        tracker.close()
    assert fake.finished == 3


def test_tensorboard_gets_images_as_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    writer = SimpleNamespace(add_scalar=lambda *call: calls.append(call), close=lambda: calls.append(("closed",)))
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda folder: calls.append((folder,)) or writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    (tracker,) = open_trackers(RunOptions(tensorboard=True), tmp_path, writes=True)
    tracker.log({"fd": 4.5}, 256)
    tracker.close()
    assert calls == [(str(tmp_path / "tensorboard"),), ("fd", 4.5, 256), ("closed",)]


def test_processes_that_do_not_write_have_none(tmp_path: Path) -> None:
    assert open_trackers(RunOptions(wandb=True, tensorboard=True), tmp_path, writes=False) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_told_before_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    check_trackers(RunOptions())
    with pytest.raises(UserError, match=f"--{name} needs the package {name}"):
        check_trackers(RunOptions(**{name: True}))


def test_texts_are_no_figures() -> None:
    assert figures_of({"a": "b", "c": None, "d": {"e": 1}}) == {"e": 1.0}
