"""The installed package: what a wheel holds, that it works away from the checkout, and the public API."""

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest

import gan_refine
from gan_refine.errors import UserError
from gan_refine.objectives import OBJECTIVES
from gan_refine.pickles import read_pickle
from gan_refine.refine import loop

ROOT = Path(__file__).parent.parent
SOURCES = ("gan_refine", "torch_utils", "pretrained", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
OFFLINE = ("--quiet", "--no-deps", "--no-index")

SHORT = (
    "--kimg=0.016",
    "--batch=8",
    "--warmup-kimg=0.008",
    "--metrics=none",
    "--no-report",
    "--device=cpu",
    "--objective=diff-instruct",
)


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command, which must succeed; the folder of the checkout is not on its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    line = [*map(str, command)]
    ended = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def build_wheel(folder: Path) -> Path:
    """The wheel of a copy of the sources, so that nothing is left in the checkout and nothing that lies there is taken."""
    copy = folder / "copy"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    run(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, copy, cwd=folder)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    """The scripts' folder of a new environment with the wheel, and what it depends on from the environment of this test."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    run(*PIP, "--python", folder / "bin/python", "install", *OFFLINE, wheel, cwd=folder.parent)
    return folder / "bin"


def expected_files() -> set[str]:
    """What the package must hold: every file of three folders of the checkout."""
    homes = {"gan_refine": "gan_refine", "pretrained": "gan_refine/bundled/pretrained"}
    homes |= {"torch_utils": "gan_refine/bundled/torch_utils"}
    found = [(home, path, name) for name, home in homes.items() for path in (ROOT / name).rglob("*") if path.is_file()]
    return {f"{home}/{path.relative_to(ROOT / name)}" for home, path, name in found if "__pycache__" not in path.parts}


WHERE = "import gan_refine, sys; print(gan_refine.__file__, 'torch' in sys.modules)"
OPEN = "import gan_refine.foundation, pickle, sys; print(type(pickle.load(open(sys.argv[1], 'rb'))['G_ema']).__name__)"


@pytest.mark.skipif(os.name == "nt", reason="the scripts of an environment are elsewhere")
def test_a_wheel_refines_away_from_the_checkout(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == expected_files()
    kinds = {".py", ".html", ".cu", ".cpp", ".h", ".pkl", ".safetensors", ".npz", ".json"}
    assert {Path(name).suffix for name in names} == kinds
    scripts = install(wheel, tmp_path / "venv")
    away = tmp_path / "away"
    away.mkdir()
    where, has_torch = run(scripts / "python", "-c", WHERE, cwd=away).split()
    assert (tmp_path / "venv") in Path(where).parents
    assert has_torch == "False", "importing the package is cheap"
    refined = Path(run(scripts / "gan-refine", "refine", *SHORT, "--outdir=runs", cwd=away).strip())
    assert refined.name.startswith("network-refined-")
    before = read_pickle(ROOT / "pretrained/fashion16-gan.pkl")
    assert len((away / refined).read_bytes()) == len(before.data)
    assert (away / refined).read_bytes() != before.data
    assert run(scripts / "python", "-c", OPEN, refined, cwd=away) == "Generator\n", (
        "plain pickle.load finds torch_utils"
    )


def test_the_example_of_the_docstring_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert gan_refine.__doc__ is not None
    lines = [line for line in gan_refine.__doc__.splitlines() if line.startswith("    ") or not line]
    example = textwrap.dedent("\n".join(lines))
    few = {"total_images=24_576": "total_images=16, batch=8, batch_gpu=8, warmup_images=8, tick_images=8"}
    for number, smaller in {**few, " images=10_000": " images=16"}.items():
        assert example.count(number) == 1
        example = example.replace(number, smaller)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "example", "exec"), {})
    assert "fd16-fashion16" in capsys.readouterr().out
    refined = gan_refine.load_generator(tmp_path / "refined.pkl")
    original = gan_refine.load_generator("fashion16")
    pairs = zip(refined.parameters(), original.parameters(), strict=True)
    assert any((one != other).any() for one, other in pairs)


def test_public_names() -> None:
    for name in set(gan_refine.__all__) - {"__version__"}:
        assert callable(getattr(gan_refine, name)), name
        assert name in dir(gan_refine)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        gan_refine.no_such_name  # noqa: B018
    assert {getattr(gan_refine, name) for name in gan_refine.__all__} >= set(OBJECTIVES.values())


def test_refine_is_a_function_whatever_was_imported_before() -> None:
    """The package gan_refine.refine takes the place of the function as soon as anything of it is imported."""
    generator, teacher = gan_refine.load_generator("fashion16"), gan_refine.load_teacher("fashion16")
    objective = gan_refine.build_objective("diff-instruct", teacher)
    sizes = {"total_images": 4, "batch": 4, "batch_gpu": 4, "warmup_images": 4, "tick_images": 4}
    progress = list(gan_refine.refine(generator, objective, gan_refine.RefineOptions(**sizes)))
    assert [type(step) for step in progress] == [loop.Progress]
    assert gan_refine.refine.loop is loop


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gan_refine.load_generator("fashion16").whitened(0.7), "whiten-w=0.7 is not allowed"),
        (lambda: gan_refine.sample(gan_refine.load_generator("fashion16"), [-1]), "seed=-1 is not allowed"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("load", [gan_refine.load_generator, gan_refine.load_teacher])
def test_a_file_that_is_not_there(load, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pkl"):
        load(tmp_path / "nothing.pkl")
