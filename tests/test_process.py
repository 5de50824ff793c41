"""What a command sets before it imports torch."""

import os
from pathlib import Path

import pytest

from gan_refine.cli import process as process_module
from gan_refine.cli.process import cores_of_quota, keep_memory, prepare_process


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("250000 100000", 2), ("50000 100000", 1)])
def test_quota_of_a_control_group(text: str, cores: int | None) -> None:
    assert cores_of_quota(text) == cores


def test_the_users_variables_win(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(process_module, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    prepare_process()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"], keep_memory()) == ("3", "ACTIVE", False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    prepare_process()
    assert os.environ["OMP_NUM_THREADS"] == "1"
