"""What a command sets before it imports torch, and that --help does not import it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import torch

from gan_refine.cli import process as process_module
from gan_refine.cli import run_command
from gan_refine.cli.process import Usage, cores_of_quota, keep_memory, prepare_process, share_cores, usage

ROOT = Path(__file__).parent.parent


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


@pytest.mark.parametrize(("others", "threads"), [(0.3, 8), (0.6, 7), (5.4, 3), (40, 1)])
def test_threads_are_left_to_other_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], others: float, threads: int
) -> None:
    """In 2 seconds the machine works for `others` cores and this process for 1.5."""
    chosen = [8]
    monkeypatch.setattr(process_module, "STARTED", Usage(10.0, 100.0, 1.0))
    monkeypatch.setattr(process_module, "usage", lambda: Usage(12.0, 100.0 + 2 * others + 3.0, 4.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    share_cores()
    said = f"Threads: {threads} of 8, because other programs keep {others:.1f} cores busy"
    assert chosen[-1] == threads and (said in capsys.readouterr().err) == (threads < 8)
    chosen[:] = [8]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    share_cores()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    share_cores()
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(process_module, "STARTED", None)
    share_cores()
    assert chosen == [8], "cores of its own, the user's wish, and a system that does not tell"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/stat of Linux")
def test_a_busy_program_is_seen() -> None:
    before = usage()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        time.sleep(1)
        after = usage()
        other.kill()
    assert before is not None and after is not None
    assert after.clock - before.clock >= 1 and after.own - before.own < 0.5
    assert 0.4 < after.cores_of_others(before) <= (os.cpu_count() or 1) + 0.1


def test_an_interruption_is_a_word_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["stopped"])
    assert run_command(stopped) == 130
    assert capsys.readouterr() == ("", "\ninterrupted\n")  # click ends the line of the terminal


def modules_after(code: str) -> tuple[set[str], str]:
    """The modules that a process has imported after `code`, which may end in SystemExit with code 0, and what it printed."""
    whole = f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    assert not end.code\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True, check=True)
    *printed, modules = done.stdout.splitlines()
    return set(modules.split()), "\n".join(printed)


@pytest.mark.parametrize(
    "code",
    [
        "import runpy; sys.argv[1:] = ['--help']; runpy.run_path('run_refine.py', run_name='__main__')",
        "from gan_refine.cli import COMMANDS; [each.main(['--help'], standalone_mode=False) for each in COMMANDS]",
    ],
)
def test_help_does_not_import_torch(code: str) -> None:
    modules, printed = modules_after(code)
    assert "Usage:" in printed
    assert "click" in modules and modules.isdisjoint({"torch", "numpy", "scipy"})


STEP = """import torch, gan_refine.run.launch, gan_refine.run.resume
    from gan_refine.refine.adam import Adam
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    Adam([[weight]], (0.0, 0.99)).step([0.5])
    print(weight.tolist())"""


def test_a_step_needs_nothing_that_is_slow_to_import_but_torch() -> None:
    modules, printed = modules_after(STEP)
    assert printed == "[0.5, 0.5]"
    assert modules.isdisjoint({"torch._dynamo", "sympy", "scipy", "requests", "jinja2", "onnx", "matplotlib"})
