"""Hostile pickles are refused within a second and 200 MB, with our error and no other, and nothing in them runs."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_pickles import FILES, HOSTILE, LIVE, in_gan, stack_global

from gan_refine.errors import FileFormatError
from gan_refine.pickles import read_pickle

ROOT = Path(__file__).parent.parent

Verdict = dict[str, object]


@pytest.fixture(scope="module")
def verdicts(shared: Callable[[str, Callable[[Path], None]], Path]) -> dict[str, Verdict]:
    """What became of every file of the corpus, in a process of its own."""

    def fill(folder: Path) -> None:
        (folder / "corpus").mkdir()
        command = [sys.executable, str(ROOT / "tests" / "hostile_pickles.py"), str(folder / "corpus")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        (folder / "verdicts.json").write_text(done.stdout)

    return json.loads((shared("verdicts", fill) / "verdicts.json").read_text())


@pytest.mark.parametrize("name", LIVE)
def test_the_bait_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Python's own pickle runs these, so that 'nothing ran' means something."""
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(Exception):
        pickle.loads(in_gan(LIVE[name]))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [*HOSTILE, *FILES])
def test_hostile_file_is_refused_and_nothing_runs(verdicts: dict[str, Verdict], name: str) -> None:
    verdict = verdicts[name]
    assert (verdict["outcome"], verdict["ran"]) == ("refused", False), verdict
    assert str(verdict["message"]).isprintable()
    assert float(str(verdict["loops"])) < 10
    assert int(str(verdict["kib"])) < 200 << 10


def test_inspect_shows_every_hostile_file(verdicts: dict[str, Verdict]) -> None:
    found = {name: verdict for name, verdict in verdicts.items() if name.startswith("inspect ")}
    assert len(found) == len(HOSTILE) + len(FILES) + 100
    assert not {name: verdict for name, verdict in found.items() if verdict["outcome"] != "opened" or verdict["ran"]}
    assert max(float(str(verdict["loops"])) for verdict in found.values()) < 20, "it reads them twice"
    assert max(int(str(verdict["kib"])) for verdict in found.values()) < 200 << 10


@pytest.mark.parametrize(
    ("group", "count", "may_open"), [("cut", 200, False), ("flipped", 300, True), ("soup", 300, False)]
)
def test_damaged_files_end_in_our_error(verdicts: dict[str, Verdict], group: str, count: int, may_open: bool) -> None:
    found = {name: verdict for name, verdict in verdicts.items() if name.startswith(f"{group} ")}
    assert len(found) == count
    allowed = ("refused", "opened") if may_open else ("refused",)  # a flip inside a weight gives another weight
    wrong = {name: verdict for name, verdict in found.items() if verdict["outcome"] not in allowed or verdict["ran"]}
    assert not wrong
    assert sum(verdict["outcome"] == "refused" for verdict in found.values()) > count // 2


def test_message_shows_names_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "hostile.pkl").write_bytes(in_gan(stack_global("a\nb\x1b[31m", "c" * 10_000)))
    with pytest.raises(FileFormatError) as caught:
        read_pickle(tmp_path / "hostile.pkl")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
