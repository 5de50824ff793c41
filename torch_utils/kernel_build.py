"""One build of the kernels: what goes into it (a Recipe), where its library is stored, and how it is built safely.

A recipe's folder is keyed by a digest of everything that could change the library. It holds `lock`, `library.so` once that is
complete, and `build.log`; `failed` holds one line that says why there is no library. Builders hold an exclusive flock, which
the operating system releases when a process ends in any way, and build in a temporary folder before they rename the result.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "ops"
HEADERS = ("activations.h", "bfloat16.h", "cuda_types.h", "portable.h", "resampling.h")
CPU_SOURCES = ("bias_act.cpp", "conv3x3.cpp", "group_norm_silu.cpp", "upfirdn2d.cpp")
CUDA_SOURCES = ("bias_act.cu", "upfirdn2d.cu")
# GCC's elimination of partial redundancies (tree-pre) multiplies every argument of SiLU by its smallest factor too, and arithmetic
# with numbers below the normal ones takes as long as all the rest.
CPU_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-tree-pre",
    "-Wall",
    "-Wextra",
)
CUDA_FLAGS = ("-O3", "-std=c++17", "-Xcompiler=-fPIC", "-Xcompiler=-Wall")
BUILD_SECONDS = 600  # after which a compiler is stopped


class BuildError(RuntimeError):
    """Why there is no library, in one line."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a library; `target` names its processor or GPU in messages."""

    device: str
    target: str
    compiler: str
    compiler_version: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]
    torch_version: str
    cuda_version: str

    def folder(self) -> Path:
        """Where the library is stored once it is built."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode())
        for name in (*self.sources, *HEADERS):
            digest.update((SOURCES / name).read_bytes())
        return cache_folder() / f"{self.device}-{digest.hexdigest()[:16]}"


def cache_folder() -> Path:
    """$TORCH_UTILS_CACHE, or gan_refine/kernels in $XDG_CACHE_HOME, or in ~/.cache; it need not exist."""
    if own := os.environ.get("TORCH_UTILS_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "gan_refine" / "kernels"


def cpu_recipe() -> Recipe:
    """For this processor. Raises BuildError where there is no C++ compiler."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise BuildError("no C++ compiler found (looked at $CXX and for c++, g++, clang++)")
    if sys.platform == "win32":
        raise BuildError("CPU kernels are not built on Windows")
    flags = [*CPU_FLAGS, *([] if sys.platform == "darwin" else ["-fopenmp"])]
    if "avx512f" in _processor():  # compilers prefer half of the width otherwise
        flags.append("-mprefer-vector-width=512")
    target = f"{platform.machine()} {hashlib.sha256(_processor().encode()).hexdigest()[:8]}"
    return Recipe("cpu", target, compiler, _version(compiler), tuple(flags), CPU_SOURCES, torch.__version__, "")


def cuda_recipe(architecture: str | None = None) -> Recipe:
    """For the current GPU, or for one given like '90'. Raises BuildError where there is no GPU or no nvcc."""
    if architecture is None and not torch.cuda.is_available():
        raise BuildError("no CUDA device")
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    compiler = shutil.which("nvcc", path=str(Path(home) / "bin")) or shutil.which("nvcc")
    if compiler is None:
        raise BuildError("no nvcc found (looked in $CUDA_HOME/bin and on the PATH)")
    if architecture is None:
        architecture = "{}{}".format(*torch.cuda.get_device_capability())
    flags = (*CUDA_FLAGS, f"-gencode=arch=compute_{architecture},code=sm_{architecture}")
    version = torch.version.cuda or ""
    target = f"sm_{architecture}"
    return Recipe("cuda", target, compiler, _version(compiler), flags, CUDA_SOURCES, torch.__version__, version)


def find_built(recipe: Recipe) -> Path | None:
    """The library if it is built, None if it was never tried. Raises BuildError if an earlier build failed."""
    folder = recipe.folder()
    library = folder / "library.so"
    if library.exists():
        return library
    failed = folder / "failed"
    if failed.exists():
        raise BuildError(failed.read_text(encoding="utf-8"))
    return None


def build(recipe: Recipe) -> Path:
    """The complete library, built unless it is there. Raises BuildError, also if the same build has failed before."""
    if library := find_built(recipe):
        return library
    folder = recipe.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            return find_built(recipe) or _build_locked(recipe, folder)
    except OSError as error:
        raise BuildError(
            f"cannot build in {folder}: {error.strerror}; set TORCH_UTILS_CACHE to a folder that can"
        ) from error


def retry(recipe: Recipe) -> Path:
    """Builds again, whatever happened before. Raises BuildError."""
    for name in ("library.so", "failed"):
        with contextlib.suppress(OSError):  # build says what is wrong with the folder
            (recipe.folder() / name).unlink()
    return build(recipe)


def _build_locked(recipe: Recipe, folder: Path) -> Path:
    for left_over in folder.glob("building-*"):  # of builders that were killed: who holds the lock is alone
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder))
    try:
        (work / "build.ninja").write_text(_ninja_file(recipe), encoding="utf-8")
        with open(folder / "build.log", "wb") as log:
            succeeded = _run([_ninja(), "-C", str(work)], log)
        if succeeded:
            os.replace(work / "library.so", folder / "library.so")
            return folder / "library.so"
        reason = f"{_first_error(folder / 'build.log')} (log: {folder / 'build.log'})"
        (work / "failed").write_text(reason, encoding="utf-8")
        os.replace(work / "failed", folder / "failed")
        raise BuildError(reason)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: list[str], log) -> bool:
    try:
        done = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        log.write(f"error: stopped after {BUILD_SECONDS} seconds\n".encode())
        return False
    return done.returncode == 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the exclusive lock on a file; waits for a builder no longer than a build may take."""
    import fcntl  # absent on Windows, where nothing is built

    with open(path, "ab") as lock:
        deadline = time.monotonic() + BUILD_SECONDS + 10
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise BuildError(f"another process has held {path} for {BUILD_SECONDS} seconds") from error
                time.sleep(0.1)
        yield


def _ninja_file(recipe: Recipe) -> str:
    """A build of one object a source, then the shared library."""

    def escaped(text: str) -> str:
        return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    objects = [f"{name}.o" for name in recipe.sources]
    lines = [
        f"compiler = {recipe.compiler}",
        f"flags = {' '.join(recipe.flags)}",
        "rule compile",
        "  command = $compiler $flags -c $in -o $out",
        "rule link",
        "  command = $compiler $flags -shared $in -o $out",
        *(f"build {o}: compile {escaped(str(SOURCES / s))}" for o, s in zip(objects, recipe.sources, strict=True)),
        f"build library.so: link {' '.join(objects)}",
    ]
    return "\n".join(lines) + "\n"


def _ninja() -> str:
    """Where ninja is: beside this Python, where its package puts it, or on the PATH. Raises BuildError."""
    found = shutil.which("ninja", path=sysconfig.get_path("scripts")) or shutil.which("ninja")
    if found is None:
        raise BuildError("no ninja found (pip install ninja)")
    return found


def _first_error(log: Path) -> str:
    """The compiler's own first message in one line of bounded length."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "error" in line.lower() or "not found" in line.lower()]
    message = (errors or lines[-1:] or ["the build failed without a message"])[0]
    return " ".join(message.split())[:300]


def _version(compiler: str) -> str:
    try:
        done = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"cannot run the compiler {compiler}: {error}") from error
    return done.stdout


def _processor() -> str:
    """What -march=native goes by, as far as the operating system tells."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return platform.processor()
