"""What newcomers stumbled over: pictures that can be seen, the line to type next, longer runs, fields that are documented."""

import json
import re
import shlex
import shutil
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from gan_refine.cli import cli
from gan_refine.cli.evaluate import evaluate
from gan_refine.cli.refine import refine

ROOT = Path(__file__).parent.parent


def test_pictures_have_a_name_for_each_snapshot_and_can_be_seen(tiny_run: Path) -> None:
    names = sorted(path.name for path in tiny_run.glob("fakes0*.png"))
    assert names == [f"fakes{images:08d}.png" for images in (24, 48, 72, 80)]
    for name in (*names, "fakes_init.png"):
        assert Image.open(tiny_run / name).size == (8 * 64, 8 * 64)  # 8x8 images of 16x16 pixels


def test_a_run_prints_the_line_that_measures_it(tiny_run: Path) -> None:
    (line,) = re.findall(r"^  (gan-refine evaluate .*)$", (tiny_run / "log.txt").read_text(), re.MULTILINE)
    words = shlex.split(line)
    given = evaluate.make_context("evaluate", words[2:]).params
    improved = json.loads((tiny_run / "summary.json").read_text())["improved"]
    refined = "network-refined-best.pkl" if improved else "network-refined-last.pkl"  # the best is the original
    assert list(given["gans"])[1] == str(tiny_run / refined)
    assert given["seed"] == 2  # 0 selected the snapshot, 1 measured it at the end


def test_a_finished_run_can_be_made_longer(tiny_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    arguments = [f"--resume={folder}", "--kimg=0.104", "--no-report", "--device=cpu"]
    ended = CliRunner().invoke(refine, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert json.loads((folder / "summary.json").read_text())["kimg"] == 0.104
    assert json.loads((folder / "options.json").read_text())["refine"]["total_images"] == 104
    lines = [json.loads(line)["kimg"] for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert lines == sorted(lines) and lines[-1] == 0.104 and lines[0] == 0.008
    assert (folder / "fakes00000104.png").is_file()


def fields(page: str, title: str) -> set[str]:
    """The first cells of the table under a heading."""
    text = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


def test_every_field_of_the_files_is_documented(tiny_run: Path) -> None:
    page = (ROOT / "docs/fields.md").read_text()
    assert fields(page, "summary.json") == set(json.loads((tiny_run / "summary.json").read_text()))
    stats = [json.loads(line) for line in (tiny_run / "stats.jsonl").read_text().splitlines()]
    assert fields(page, "stats.jsonl") == set().union(*stats)
    path = min(tiny_run.glob("metric-*.jsonl"))
    assert fields(page, "metric-NAME.jsonl") == set(json.loads(path.read_text().splitlines()[0]))


def test_help_lists_every_command() -> None:
    text = CliRunner().invoke(cli, ["--help"]).stdout
    for name in ("refine", "evaluate", "generate", "inspect", "convert", "export", "report", "doctor"):
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name


def test_the_line_for_ones_own_pytorch_has_no_constraint_on_it() -> None:
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    cells = re.findall(r"^\| (.*?) \| `(pip install .*?)` \|$", (ROOT / "docs/quickstart.md").read_text(), re.MULTILINE)
    lines = dict(cells)
    assert len(lines) == 3
    (own,) = (line for name, line in lines.items() if "CUDA" in name)
    assert "-c" not in own.split() and "torch" not in own
    assert "torch>=2.6,<3" in (ROOT / "setup.cfg").read_text()  # which an installed one satisfies


def test_the_answers_name_tests_that_exist() -> None:
    page = (ROOT / "docs/faq.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| complaint")]
    assert len(rows) >= 14
    for row in rows:
        named = re.findall(r"`(tests/\w+\.py)`", row)
        assert named and all((ROOT / name).is_file() for name in named), row
