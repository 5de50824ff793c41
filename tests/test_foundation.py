"""gan_refine beside another project's torch_utils: neither takes the other's name, in any order of imports."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EMBEDDED = [ROOT / "gan_refine/networks" / name for name in ("edm_precond.py", "edm_unet.py", "stylegan2.py")]
LOUD = "raise SystemError('a package of another project was imported')\n"


def plant_clone(folder: Path, has_init: bool, loud: bool = False) -> Path:
    """A clone of some StyleGAN or EDM: its torch_utils lacks what ours has. `loud` packages cannot be imported at all."""
    files = {"distributed.py": "def init():\n    pass\n", "misc.py": "def theirs():\n    return 'theirs'\n"}
    files |= {"persistence.py": "", "ops/upfirdn2d.py": "", "ops/__init__.py": ""}
    for package in ("torch_utils", "dnnlib", "training", "metrics"):
        (folder / package / "ops").mkdir(parents=True)
        for name, text in files.items():
            (folder / package / name).write_text(LOUD if loud else text, encoding="utf-8")
        if has_init or package != "torch_utils":
            (folder / package / "__init__.py").write_text(LOUD if loud else "", encoding="utf-8")
    return folder


def lay_out_as_installed(folder: Path) -> Path:
    """A folder like site-packages after the installation of a wheel: gan_refine is in it, and no torch_utils."""
    (folder / "gan_refine/bundled").mkdir(parents=True)
    for child in (ROOT / "gan_refine").iterdir():
        (folder / "gan_refine" / child.name).symlink_to(child)
    for name in ("torch_utils", "pretrained"):
        (folder / "gan_refine/bundled" / name).symlink_to(ROOT / name)
    return folder


class Programs:
    """Runs scripts in processes of their own, forked from one that has torch loaded already and nothing of this project."""

    def __init__(self, folder: Path) -> None:
        self.errors = folder / "stderr"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1"
        }
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: object, cwd: Path, path: list[Path]) -> None:
        """Runs a script with these folders first on its path; it must end well."""
        job = {"script": script, "arguments": [*map(str, arguments)], "cwd": str(cwd), "path": [*map(str, path)]}
        assert self.server.stdin is not None and self.server.stdout is not None, "both are pipes"
        self.server.stdin.write(json.dumps({**job, "errors": str(self.errors)}) + "\n")
        self.server.stdin.flush()
        assert self.server.stdout.readline() == "0\n", self.errors.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    made = Programs(tmp_path_factory.mktemp("programs"))
    yield made
    made.server.communicate()


# Without finders of editable installations: this environment may have one of another checkout.
SERVER = """
import json, os, sys, traceback
import click, filelock, jaxtyping, requests, safetensors.torch, torch, tqdm
torch.set_num_threads(1)
sys.meta_path[:] = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]

def work(job):
    os.dup2(os.open(job["errors"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    os.chdir(job["cwd"])
    sys.path[1:1] = job["path"]  # behind the current folder
    sys.argv = ["-c", *job["arguments"]]
    code = 1
    try:
        exec(job["script"], {"__name__": "__main__"})
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        work(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def command(*arguments: object, cwd: Path, path: list[Path]) -> str:
    """Standard output and error of a Python command with these folders on its path, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *map(str, arguments)]
    ended = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


# As `python -m gan_refine` does it, in whose path the current folder is the first.
INSPECT = """
import contextlib, io, runpy, sys
said = io.StringIO()
sys.argv[1:1] = ["inspect"]
try:
    with contextlib.redirect_stdout(said):
        runpy.run_module("gan_refine", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
assert "opens safely       yes" in said.getvalue(), said.getvalue()
"""


@pytest.mark.parametrize("has_init", [True, False], ids=["package", "folder"])
def test_a_command_in_a_clone_imports_nothing_of_it(programs: Programs, tmp_path: Path, has_init: bool) -> None:
    clone = plant_clone(tmp_path, has_init, loud=True)
    programs.run(INSPECT, ROOT / "pretrained/fashion16-gan.pkl", cwd=clone, path=[clone, ROOT])


def test_run_refine_in_a_clone_imports_nothing_of_it(tmp_path: Path) -> None:
    clone = plant_clone(tmp_path, True, loud=True)
    assert '"gan"' in command(ROOT / "run_refine.py", "--dry-run", "--device=cpu", cwd=clone, path=[clone])


USE = """
import copy, sys
from pathlib import Path
from gan_refine.foundation import distributed, persistence
from gan_refine.networks import stylegan2
from gan_refine.pickles import read_networks, write_networks
import gan_refine

def use_gan_refine():
    assert gan_refine.__file__.startswith(sys.argv[1]), gan_refine.__file__
    assert distributed.is_rank0() and stylegan2.persistence is persistence
    net = stylegan2.Generator(4, 0, 4, 8, 3, synthesis_kwargs={"channel_max": 8})
    write_networks(Path("ours.pkl"), {"G_ema": copy.deepcopy(net)})
    assert "G_ema" in read_networks(Path("ours.pkl")).networks()
"""
USE_CLONE = """
import torch_utils, torch_utils.misc, torch_utils.distributed, torch_utils.persistence
from torch_utils.ops import upfirdn2d

def use_clone():
    import torch_utils.misc
    from torch_utils import persistence
    assert torch_utils.misc.theirs() == "theirs"
    assert [module.__name__ for module in (torch_utils, persistence)] == ["torch_utils", "torch_utils.persistence"]
    for module in (torch_utils.misc, torch_utils.distributed, persistence, upfirdn2d):
        assert module.__file__.startswith(sys.argv[2]), module.__file__
    assert not hasattr(persistence, "persistent_class")
"""
ORDERS = {
    "clone first": "import sys; sys.path.insert(0, sys.argv[2])" + USE_CLONE + USE,
    "clone second": "import sys; sys.path.insert(0, sys.argv[2])" + USE + USE_CLONE,
    "clone found later": USE + "sys.path.append(sys.argv[2])" + USE_CLONE,
}


@pytest.mark.parametrize("has_init", [True, False], ids=["package", "folder"])
@pytest.mark.parametrize("order", ORDERS)
def test_both_torch_utils_in_one_program(programs: Programs, tmp_path: Path, order: str, has_init: bool) -> None:
    clone, installed = plant_clone(tmp_path / "clone", has_init), lay_out_as_installed(tmp_path / "site")
    script = ORDERS[order] + "\nuse_gan_refine(); use_clone(); use_gan_refine(); use_clone()"
    programs.run(script, installed, clone, cwd=tmp_path, path=[installed])


def test_a_clone_in_the_way_would_be_noticed(programs: Programs, tmp_path: Path) -> None:
    """The tests above can fail: the public name does lead to the clone."""
    clone = plant_clone(tmp_path / "clone", True, loud=True)
    with pytest.raises(AssertionError, match="a package of another project was imported"):
        programs.run("from torch_utils import distributed", cwd=clone, path=[ROOT])


SAME = """
assert foundation.persistence is persistence and foundation.ops.upfirdn2d is upfirdn2d
from torch_utils import misc, distributed
from torch_utils.ops import bias_act, conv2d_resample
import gan_refine.foundation.ops.bias_act, gan_refine.foundation.ops.conv2d_resample
assert foundation.misc is misc and foundation.distributed is distributed
assert foundation.ops.bias_act is bias_act and foundation.ops.conv2d_resample is conv2d_resample
from gan_refine.networks import stylegan2
assert stylegan2.bias_act is bias_act and stylegan2.persistence is persistence
assert persistence._reconstruct_persistent_obj.__module__ == "torch_utils.persistence"
try:
    import torch_utils.training_stats
except ModuleNotFoundError as error:
    assert error.name == "torch_utils.training_stats"
else:
    raise AssertionError("there is no such module")
"""
FOUNDATION_FIRST = """
from gan_refine import foundation
import gan_refine.foundation.persistence, gan_refine.foundation.ops.upfirdn2d
"""
PUBLIC_FIRST = "from torch_utils import persistence\nfrom torch_utils.ops import upfirdn2d\n"


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "checkout"])
@pytest.mark.parametrize("first", ["foundation", "public"])
def test_without_another_the_public_name_means_the_same_modules(
    programs: Programs, tmp_path: Path, first: str, installed: bool
) -> None:
    imports = [FOUNDATION_FIRST, PUBLIC_FIRST]
    if first == "public":
        imports = [
            "import gan_refine.foundation\n" if installed else "",
            *reversed(imports),
        ]  # it alone finds the installed
    path = lay_out_as_installed(tmp_path) if installed else ROOT
    programs.run("".join(imports) + SAME, cwd=tmp_path, path=[path])


TRUSTED = '''
import io, pickle, sys
from pathlib import Path
import torch
from gan_refine.foundation import persistence, public_persistence
from gan_refine.pickles import run_pickle_file

SOURCE = """
import torch
from torch_utils import misc, persistence

@persistence.persistent_class
class Odd(torch.nn.Module):
    whose = misc.theirs() if hasattr(misc, "theirs") else "ours"
"""

class Persistent:
    def __reduce__(self):
        state = dict(vars(torch.nn.Linear(1, 1)))
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": "Odd", "state": state}
        return persistence._reconstruct_persistent_obj, (meta,)

with public_persistence():
    data = pickle.dumps({"G_ema": Persistent()})
Path("odd.pkl").write_bytes(data)
file = run_pickle_file(Path("odd.pkl"))
file.write(Path("again.pkl"), {"G_ema": file.network("G_ema")})
import torch_utils.persistence
whose = run_pickle_file(Path("again.pkl")).network("G_ema").whose
assert [whose, torch_utils.persistence is persistence] == EXPECTED, [whose, torch_utils.persistence]
'''


@pytest.mark.parametrize("beside", ["nothing", "clone", "imported clone"])
def test_a_trusted_source_gets_the_torch_utils_of_the_path(programs: Programs, tmp_path: Path, beside: str) -> None:
    """But its classes are persistent in our sense, so that they can be read and written; the clone keeps its own module."""
    path = [lay_out_as_installed(tmp_path / "site")]
    if beside != "nothing":
        path.insert(0, plant_clone(tmp_path / "clone", True))
    expected = ["ours", True] if beside == "nothing" else ["theirs", False]
    imported = "import torch_utils.persistence\n" if beside == "imported clone" else ""
    programs.run(f"{imported}EXPECTED = {expected}\n{TRUSTED}", cwd=tmp_path, path=path)


def test_only_embedded_sources_use_the_public_name() -> None:
    assert [path for path in sorted((ROOT / "gan_refine").rglob("*.py")) if uses_public_name(path)] == EMBEDDED


def uses_public_name(path: Path) -> bool:
    """Whether a module imports torch_utils at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    conditional = {inner for node in tree.body if isinstance(node, ast.If) for inner in ast.walk(node)}
    names = [
        name
        for node in set(ast.walk(tree)) - conditional
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    ]
    return any(name.partition(".")[0] == "torch_utils" for name in names)
