"""The loader: what it builds, and that no killed, concurrent, refused or failing build hangs or breaks a program."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from runs import Commands
from torch_utils import custom_ops, kernel_build

USE = """
import torch
from torch_utils.ops import upfirdn2d
x = torch.arange(2.0 * 4 * 32 * 32).reshape(2, 4, 32, 32)
f = upfirdn2d.setup_filter([1, 3, 3, 1])
got = upfirdn2d.upsample2d(x, f)
assert torch.allclose(got, upfirdn2d.upsample2d(x, f, impl="ref"))
from torch_utils import custom_ops
print("kernels" if custom_ops.why_not("cpu") is None else "reference")
"""

COMPILER = shutil.which("g++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or shutil.which("ninja") is None or sys.platform == "win32",
    reason="needs a C++ compiler and ninja",
)


def environment(cache: Path, **others: str) -> dict[str, str]:
    return {"TORCH_UTILS_CACHE": str(cache), "TORCH_UTILS_OPS": "auto", **others}


def finish(commands: Commands, script: str, environ: dict[str, str], **options: object) -> tuple[str, str]:
    """(stdout, stderr) of a script that must end well."""
    ended = commands.script(script, environ, **options)
    assert not any(ended.codes), ended.stderr
    return ended.stdout.strip(), ended.stderr.strip()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Nothing of the project is imported before a script starts."""
    server = Commands(tmp_path_factory.mktemp("scripts"), preload="torch")
    yield server
    server.close()


def fake_compiler(folder: Path, script: str) -> str:
    """A compiler that does what the shell script says; its version is that of the real one, so as to leave the digest alone."""
    path = folder / "c++"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo fake; exit 0; fi\n{script}\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)


# Stands for the real compiler where a test is about the loader and seconds of compiling would add nothing: it links a library
# without our functions, which still loads. The slow half of a build is the given number of seconds.
def quick_compiler(folder: Path, seconds: float, log: Path) -> str:
    script = f"""echo started >> {log}; sleep {seconds}
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then out="$2"; fi; shift; done
echo 'int nothing;' | {COMPILER} -x c++ -shared -fPIC - -o "$out" """
    return fake_compiler(folder, script)


LOADER = 'import runpy, sys; sys.argv[1:] = {}; runpy.run_module("torch_utils.custom_ops", run_name="__main__")'
STATUS, BUILD = LOADER.format([]), LOADER.format(["--build", "cpu"])


def test_import_builds_nothing(commands: Commands, tmp_path: Path) -> None:
    script = "import torch_utils.ops.bias_act, torch_utils.ops.conv2d_resample, torch_utils.custom_ops"
    finish(commands, script, environment(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_status_says_what_there_is_and_builds_nothing(commands: Commands, tmp_path: Path) -> None:
    out, _ = finish(commands, STATUS, environment(tmp_path / "cache"))
    assert "cpu: " in out and "cuda: " in out and str(tmp_path / "cache") in out
    assert not (tmp_path / "cache").exists()


@needs_compiler
def test_what_was_built_is_kept_and_reported() -> None:
    """In the cache that all tests share."""
    assert custom_ops.why_not("cpu") is None
    library = kernel_build.find_built(kernel_build.cpu_recipe())
    assert library is not None and kernel_build.build(kernel_build.cpu_recipe()) == library
    assert f"built for {kernel_build.cpu_recipe().target}: {library}" in custom_ops.status("cpu")


def test_the_folder_depends_on_everything_that_matters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = kernel_build.Recipe("cpu", "t", "c++", "12", ("-O3",), ("upfirdn2d.cpp",), "2.13", "")
    changes: list[dict[str, object]] = [
        {"target": "u"}, {"compiler_version": "13"}, {"flags": ("-O2",)}, {"torch_version": "2.14"}, {"cuda_version": "13"},
        {"sources": ("bias_act.cpp",)},
    ]  # fmt: skip
    folders = {dataclasses.replace(recipe, **change).folder() for change in changes} | {recipe.folder()}
    for path in kernel_build.SOURCES.iterdir():
        if path.suffix in (".h", ".cpp"):
            (tmp_path / path.name).write_bytes(path.read_bytes() + (b"//" if path.name == "portable.h" else b""))
    monkeypatch.setattr(kernel_build, "SOURCES", tmp_path)
    assert len({*folders, recipe.folder()}) == len(changes) + 2


def test_without_a_compiler_one_line_and_the_reference(commands: Commands, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    environ = environment(tmp_path / "cache", PATH=str(empty))
    out, err = finish(commands, USE, environ, unset=("CXX",))
    assert out == "reference"
    assert err.count("\n") == 0 and "no C++ compiler found" in err
    status, _ = finish(commands, STATUS, environ, unset=("CXX",))
    assert "cpu: not built: no C++ compiler found" in status


def test_a_failing_compiler_is_tried_once_and_quoted(commands: Commands, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    compiler = fake_compiler(tmp_path, f"echo x >> {tries}; echo 'foo.cpp:1: error: no such luck' >&2; exit 1")
    environ = environment(tmp_path / "cache", CXX=compiler)
    for _ in range(2):
        out, err = finish(commands, USE, environ)
        assert out == "reference"
        assert err.count("\n") == 0 and "error: no such luck" in err and "build.log" in err
    count = len(tries.read_text().split())
    assert 1 <= count <= len(kernel_build.CPU_SOURCES), (
        "one for each source that ninja starts at once, and none by the second process"
    )
    (log,) = (tmp_path / "cache").glob("*/build.log")
    assert "no such luck" in log.read_text()
    status, _ = finish(commands, STATUS, environ)
    assert "no such luck" in status


def test_asking_for_kernels_that_cannot_be_had_is_an_error(commands: Commands, tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, "echo error: broken; exit 1")
    ended = commands.script(USE, environment(tmp_path / "cache", CXX=compiler, TORCH_UTILS_OPS="cpu"))
    assert ended.code == 1 and "impl='cpu' was requested" in ended.stderr and "error: broken" in ended.stderr


@needs_compiler
def test_a_killed_build_hangs_nobody(commands: Commands, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = environment(tmp_path / "cache", CXX=quick_compiler(tmp_path, 30, log))
    victim = commands.start_script(BUILD, environ)
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log.exists(), "the build has started"
    os.kill(victim, signal.SIGKILL)  # the process alone: its compiler goes on, as after a real accident
    assert commands.end().code == -signal.SIGKILL
    quick_compiler(tmp_path, 0, log)
    started = time.monotonic()
    out, _ = finish(commands, BUILD, environ)
    assert "cpu: built for" in out and time.monotonic() - started < 25, "did not wait for the first"
    os.killpg(victim, signal.SIGKILL)
    (folder,) = (tmp_path / "cache").iterdir()
    assert {path.name for path in folder.iterdir()} == {"lock", "build.log", "library.so"}


@needs_compiler
def test_two_processes_build_once(commands: Commands, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = environment(tmp_path / "cache", CXX=quick_compiler(tmp_path, 1, log))
    script = "from torch_utils import kernel_build as k; print(k.build(k.cpu_recipe()))"
    finish(commands, script, environ, processes=2)
    results = {commands.said("stdout", rank).strip() for rank in range(2)}
    assert len(results) == 1 and Path(results.pop()).exists()
    assert len(log.read_text().split()) == len(kernel_build.CPU_SOURCES) + 1, "each source once, and one link"


def test_a_cache_that_cannot_be_written_is_said(commands: Commands, tmp_path: Path) -> None:
    """A file where the folder should be: no permission would stop a test that root runs."""
    (tmp_path / "cache").write_text("", encoding="utf-8")
    environ = environment(tmp_path / "cache", CXX=fake_compiler(tmp_path, "exit 0"))
    out, err = finish(commands, USE, environ)
    assert out == "reference" and err.count("\n") == 0 and "set TORCH_UTILS_CACHE" in err


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_said(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    out, err = finish(commands, USE, environment(tmp_path / "cache"))
    assert out == "reference" and err.count("\n") == 0 and "set TORCH_UTILS_CACHE" in err


@needs_compiler
def test_a_library_in_a_read_only_cache_is_used(commands: Commands) -> None:
    """Found without writing anything: the lock is not even opened."""
    recipe = kernel_build.cpu_recipe()
    library = kernel_build.build(recipe)
    before = {path.name: path.stat().st_mtime_ns for path in recipe.folder().iterdir()}
    out, err = finish(commands, USE, environment(library.parent.parent))
    assert (out, err) == ("kernels", "")
    assert {path.name: path.stat().st_mtime_ns for path in recipe.folder().iterdir()} == before


@needs_compiler
def test_a_damaged_library_is_reported(commands: Commands, tmp_path: Path) -> None:
    environ = environment(tmp_path / "cache", CXX=quick_compiler(tmp_path, 0, tmp_path / "log"))
    finish(commands, BUILD, environ)
    (library,) = (tmp_path / "cache").glob("*/library.so")
    library.write_bytes(b"no library")
    out, err = finish(commands, USE, environ)
    assert out == "reference" and err.count("\n") == 0 and "library.so" in err


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")


@pytest.mark.skipif(nvcc() is None, reason="no nvcc on this machine")
@pytest.mark.parametrize("source", kernel_build.CUDA_SOURCES)
def test_cuda_sources_compile_without_a_warning(source: str, tmp_path: Path) -> None:
    """For the oldest architecture, which allows least; nvcc alone, without any header of PyTorch."""
    compiler = nvcc()
    assert compiler is not None
    listed = subprocess.run([compiler, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = [arch for arch in ("75", "80", "90", "100") if f"compute_{arch}\n" in listed]
    assert len(known) >= 3, f"nvcc knows {listed.split()}"
    target = f"-gencode=arch=compute_{known[0]},code=sm_{known[0]}"
    strict = ["-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror"]
    # Warnings are the front end's, and the optimizer takes most of the time.
    flags = [{"-O3": "-O0"}.get(flag, flag) for flag in kernel_build.CUDA_FLAGS] + ["-Xcicc=-O0", "-Xptxas=-O0"]
    command = [compiler, *flags, target, *strict, "-c", str(kernel_build.SOURCES / source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "out.o")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
def test_cuda_kernels_build_and_load() -> None:
    assert custom_ops.why_not("cuda") is None
    assert torch.cuda.is_available()
