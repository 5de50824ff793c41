"""What all tests share: shape checks of annotated functions, one thread a worker, fixed seeds, reasons for skipping."""

import os
import pkgutil
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import torch
from filelock import FileLock

if TYPE_CHECKING:
    from runs import Commands

PACKAGE = Path(__file__).parent.parent / "gan_refine"

# Sources of networks are embedded in pickles and run in other tools too: they are tested as they are. pickles handles
# bytes, not shapes, and its tests measure time, which checking every call of its inner loop would spoil.
UNCHECKED = {"networks", "pickles", "foundation"}
MODULES = {found.name for found in pkgutil.iter_modules([str(PACKAGE)])}

jaxtyping.install_import_hook([f"gan_refine.{name}" for name in sorted(MODULES - UNCHECKED)], "typechecking.check")

# Kernels are built and samples made afresh, once for all workers, and nothing is left behind.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHES = tempfile.TemporaryDirectory(prefix="caches-")
    os.environ["TORCH_UTILS_CACHE"] = str(Path(CACHES.name) / "kernels")
    os.environ["GAN_REFINE_CACHE"] = str(Path(CACHES.name) / "files")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what tests start: else it follows the load, and rounding with it
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are the parallelism


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="also run tests that download something")
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "needs a CUDA device, and there is none"
    if shutil.which("chromium") is None:
        reasons["browser"] = "needs a chromium on the path, and there is none"
    if not config.getoption("--network"):
        reasons["network"] = "downloads something; pytest --network runs it"
    if not config.getoption("--slow"):
        reasons["slow"] = "takes minutes; pytest --slow runs it"
    for item in items:
        for marker in item.iter_markers():
            if marker.name in reasons:
                item.add_marker(pytest.mark.skip(reason=reasons[marker.name]))


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test starts from the same state of torch's global generator, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that name a tiny generator and its teacher."""
    from runs import write_pair  # which imports the project: not before the import hook is there

    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Commands]":
    """Runs `run_refine.py`, or a script, in processes of their own."""
    from runs import Commands

    server = Commands(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """`shared(name, fill)` is a folder that one worker fills; the others wait for it. Tests do not change it."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        path, filled = root / f"shared-{name}", root / f"shared-{name}.filled"
        with FileLock(root / f"shared-{name}.lock"):
            if not filled.exists():
                path.mkdir()
                fill(path)
                filled.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_run(shared: Shared) -> Path:
    """The folder of a finished run of a tiny pair. Tests do not change it."""
    from click.testing import CliRunner

    from gan_refine.cli import cli
    from runs import SMALL, write_pair

    def fill(folder: Path) -> None:
        wanted = ["--report", "--teacher-steps=2", f"--outdir={folder}"]
        arguments = ["refine", *write_pair(folder), *SMALL, *wanted]
        ended = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert ended.exit_code == 0, ended.output

    return shared("tiny", fill) / "00000-tiny"
