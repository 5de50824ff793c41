"""The clock of a run: lines that come in time and times that are right, by a clock that the test turns."""

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from gan_refine.cli import cli
from gan_refine.run import clock as module
from gan_refine.run.clock import Clock, Phase
from runs import SMALL

PHASES = {"warm-up": Phase(100, 0.5), "evaluation": Phase(1000, 0.1)}  # 50 and 100 seconds


class Hands:
    """A clock to set; what was said, at which second."""

    def __init__(self) -> None:
        self.second = 0.0
        self.said: list[tuple[float, str]] = []
        self.clock = Clock(lambda text: self.said.append((self.second, text)), PHASES, lambda: self.second)


def test_a_line_comes_every_30_seconds_with_the_time_left() -> None:
    hands = Hands()
    count = hands.clock.enter("warm-up")
    for _ in range(100):
        hands.second += 1  # twice as long as expected
        count(1)
    assert [second for second, _ in hands.said] == [30, 60, 90]
    # 42.5 of 150 expected seconds are done after 60 + 30 seconds of slack; the rest takes as much longer.
    assert hands.said[1][1] == "warm-up: 60 of 100 images  (60 s, about 3 min left)"
    assert hands.clock.left() == pytest.approx(100 * (100 + 30) / (50 + 30))


def test_what_takes_long_is_told_before() -> None:
    hands = Hands()
    hands.clock.enter("warm-up")
    hands.clock.enter("evaluation", 10)
    assert hands.said == []
    hands.clock.enter("evaluation")
    assert hands.said == [(0, "evaluation: 1000 images, about 2 min  (0 s, about 2 min left)")]


def test_a_line_that_was_told_is_not_followed_by_another_at_once() -> None:
    hands = Hands()
    hands.clock.enter("references")  # in no plan: nobody knows how many
    hands.second = 29
    hands.clock.tell("a figure")
    hands.second = 31
    hands.clock.beat()
    assert [text for _, text in hands.said] == ["a figure  (29 s, about 5 min left)"]
    hands.second = 60
    hands.clock.count(7)
    assert hands.said[1:] == [(60, "references: 7 images  (60 s, about 8 min left)")]


def test_a_resumed_run_goes_on_where_it_was() -> None:
    hands = Hands()
    hands.clock.go_on(1000, {"warm-up": 100}, {"warm-up": 990.0, "evaluation": 10.0})
    assert hands.clock.seconds == 1000 and hands.clock.left() == 100
    hands.clock.enter("evaluation")
    hands.second = 50
    hands.clock.count(500)
    assert hands.clock.seconds == 1050 and hands.clock.left() == pytest.approx(50)
    assert {"warm-up": 990, "evaluation": 60}.items() <= hands.clock.parts.items()


def test_the_seconds_of_all_parts_are_those_of_the_run() -> None:
    hands = Hands()
    for phase, seconds in (("warm-up", 3), ("evaluation", 5), ("warm-up", 4)):
        hands.clock.enter(phase)
        hands.second += seconds
    assert {"warm-up": 7, "evaluation": 5}.items() <= hands.clock.parts.items()
    assert sum(hands.clock.parts.values()) == hands.clock.seconds == 12


def test_a_long_step_does_not_silence_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(module, "EVERY", 0.0)
    with Clock(said.append, PHASES).running() as clock:
        clock.enter("warm-up")
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
    assert said and said[0].startswith("warm-up: 0 of 100 images  (")


def test_every_phase_of_a_run_is_told_and_the_plan_stands_first(
    pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "EVERY", 0.0)
    given = ["refine", *pair, *SMALL, "--kimg=0.024", "--teacher-steps=2", f"--outdir={tmp_path}"]
    ended = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("trying small steps  (")]
    assert [line.split()[0] for line in lines[:9]] == [
        *("GAN:", "Preset:", "length", "method", "rates", "measures", "calls", "time", "memory")
    ]
    assert lines[9].startswith("hint      --eval-images=32 is few for fd in the 128 features of fashion16, fd in the ")
    (folder,) = tmp_path.glob("00000-*")
    assert (folder / "log.txt").read_text().splitlines()[:8] == lines[2:10], "the log has the plan and its hints"
    summary = json.loads((folder / "summary.json").read_text())
    assert {"warm-up", "learning", "evaluation", "final tables", "report and checkpoints"} < set(summary["parts"])
    assert sum(summary["parts"].values()) == pytest.approx(summary["seconds"], abs=0.5)
    told = [re.match(r"([a-z -]+): (\d+) of (\d+) images  \(\d+ s, about \d+ s left\)$", line) for line in lines]
    reached = {match[1]: (int(match[2]), int(match[3])) for match in told if match}
    assert reached == {
        "teacher samples to measure against": (64, 64),
        "teacher samples to learn from": (64, 64),
        "warm-up": (8, 16),  # told before each step of a phase, and after each batch of an evaluation
        "learning": (24, 24),
        "evaluation": (64, 64),
        "final tables": (64, 128),  # before and after; the detectors see the floor and the reference besides
    }


def test_an_evaluation_is_told_too(pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "EVERY", 0.0)
    given = ["evaluate", *pair, "--images=20", "--teacher-steps=2", "--fid-seeds=2", "--device=cpu"]
    ended = CliRunner().invoke(cli, given, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    lines = ended.stderr.splitlines()
    assert any(line.startswith("teacher samples to measure against: 40 of 40 images  (") for line in lines)
    assert any(line.startswith("evaluation: 40 of 40 images  (") for line in lines)
