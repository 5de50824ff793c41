"""README and docs/: the Python in them runs, links and paths exist, options and objectives are those of the program."""

import functools
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch

import gan_refine
from gan_refine import objectives
from gan_refine.cli import COMMANDS
from gan_refine.cli.refine import refine
from gan_refine.config import RefineOptions, build_options, parse_spec
from gan_refine.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
CALL = re.compile(
    r"(?:line=\$\()?(?:(?:srun )?torchrun .*?|python )?(?:gan-refine|-m gan_refine(?= )|(?<= )(run_refine\.py))( [^)]*)?"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]  # the diary is for the record and not checked
EVERY_PAGE = [*PAGES, *sorted((DOCS / "research").glob("*.md"))]

# Options of other programs that the pages mention.
OTHER_OPTIONS = {
    "torchrun": {"--standalone", "--nproc-per-node", "--max-restarts", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}
    | {"--rdzv-id"},
    "sbatch": {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--signal"},
    "NVlabs/edm, NVlabs/stylegan2-ada-pytorch": {
        "--source",
        "--dest",
        "--resolution",
        "--transform",
        "--data",
        "--gpus",
        "--cond",
    },
    "pip": {"--no-deps"},
    "torch_utils.custom_ops": {"--build"},
    "recipes/sweep.py": {"--out", "--threads"},
    "recipes/neighbours.py": {"--data"},
    "benchmarks": {"--fashion", "--joint", "--reference", "--steps", "--size", "--subset-size", "--probe", "--resized"},
}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(path: Path, title: str) -> str:
    """What stands under a heading, up to the next one of the same or a higher level."""
    level = title.split(" ")[0]
    _, found, rest = text_of(path).partition(f"\n{title}\n")
    assert found, f"{path.name} has no heading {title!r}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def blocks(path: Path) -> list[str]:
    """The Python blocks of a page, each at its own lines, so that a traceback names the page's."""
    text = text_of(path)
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in BLOCK.finditer(text)]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in `text`."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def command_options(command: click.Command) -> dict[str, click.Option]:
    return {name: found for found in command.params if isinstance(found, click.Option) for name in found.opts}


# The code


@pytest.mark.parametrize("path", [page for page in PAGES if blocks(page)], ids=lambda path: path.name)
def test_the_blocks_of_a_page_run_in_order(path, monkeypatch):
    table = dict(OBJECTIVES)
    monkeypatch.setattr(objectives, "OBJECTIVES", table)  # a page may add one
    names: dict[str, object] = {"__name__": path.stem}
    for block in blocks(path):
        exec(compile(block, str(path), "exec"), names)
    assert torch.is_grad_enabled()
    assert set(table) - set(OBJECTIVES) == ({"bounded"} if path.name == "architecture.md" else set())


def test_the_pages_with_code_are_found():
    assert {"architecture.md", "python.md"} == {path.name for path in PAGES if blocks(path)}


def test_the_cells_of_the_notebook_run_and_hold_no_outputs(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    cells = json.loads(text_of(DOCS / "refine.ipynb"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    first, *rest = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = {"__name__": "notebook"}
    exec(first, names)
    assert (names["GAN"], names["TEACHER"], names["DEVICE"]) == ("fashion16", "fashion16", "cpu")
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    names |= {"GAN": gan, "TEACHER": teacher, "KIMG": 0.064, "IMAGES": 20}
    names["OBJECTIVE"] = "di-gan,samples=64,steps=2,window=64"
    monkeypatch.setattr(gan_refine, "RefineOptions", functools.partial(RefineOptions, warmup_images=64))
    for cell in rest:
        exec(compile(cell, "refine.ipynb", "exec"), names)
    assert names["progress"].images == 64 and (tmp_path / "refined.pkl").is_file()


def test_a_wrong_claim_on_a_page_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    names: dict[str, object] = {}
    with pytest.raises(AssertionError):
        for block in blocks(page):
            exec(block, names)
    assert names["x"] == 1


# Lengths, links, paths


@pytest.mark.parametrize("path, most", [(ROOT / "README.md", 120), (DOCS / "results.md", 80)], ids=str)
def test_a_page_is_short(path, most):
    assert len(text_of(path).splitlines()) <= most


@pytest.mark.parametrize("path", EVERY_PAGE, ids=lambda path: path.name)
def test_relative_links_resolve(path):
    targets = [found[1] for found in LINK.finditer(text_of(path)) if not found[1].startswith(("http:", "https:"))]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_readme_links_every_page_but_the_diary():
    linked = {(ROOT / found[1]).resolve() for found in LINK.finditer(text_of(ROOT / "README.md"))}
    assert {path for path in DOCS.glob("*.md") if path not in linked} == set()
    assert not [path for path in linked if "research" in path.parts]


def tree_paths(tree: str) -> list[str]:
    """The paths of the indented tree: names up to two spaces before the remark; a deeper line lies in the folder above it."""
    found, folder = [], ""
    for line in tree.strip("\n").splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split(" ")
        if not line.startswith(" "):
            folder = ""
        found += [folder + name for name in names]
        if not line.startswith(" ") and names[-1].endswith("/"):
            folder = names[-1]
    return found


def test_every_path_in_the_tree_exists_and_every_folder_is_in_it():
    tree = re.search(r"```\n(.*?)```", section(DOCS / "architecture.md", "## The tree"), re.DOTALL)
    paths = tree_paths(tree[1])
    assert [path for path in paths if not (ROOT / path).exists()] == []
    package = {f"gan_refine/{path.parent.name}/" for path in (ROOT / "gan_refine").glob("*/__init__.py")}
    assert package <= set(paths)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_paths_in_code_spans_exist(path):
    pattern = re.compile(r"`(?:python )?((?:gan_refine|tests|recipes|benchmarks|pretrained|docs|torch_utils)/[\w./-]*)")
    named = [found[1] for found in pattern.finditer(text_of(path))]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_call_of_the_walk_exists():
    walk = section(DOCS / "architecture.md", "## The walk of one latent from `--gan` to the refined pickle")
    calls = re.findall(r"`([\w/]+\.py)` `(\w+)`", walk)
    assert len(calls) > 20
    sources = {name: text_of(ROOT / "gan_refine" / name) for name, _ in calls}
    missing = [(n, call) for n, call in calls if not re.search(rf"^\s*(def|class) {call}\b", sources[n], re.MULTILINE)]
    assert missing == []


def test_the_places_of_the_architecture_exist():
    places = re.findall(r"`(gan_refine/[\w/]+\.py)`, `(\w+(?:\.\w+)?)`", text_of(DOCS / "architecture.md"))
    assert len(places) > 5
    for name, dotted in places:
        for part in dotted.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b", text_of(ROOT / name), re.MULTILINE), (name, part)


# The command line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_option_that_a_page_mentions_exists(path):
    known = {name for command in COMMANDS for name in [*command_options(command), "--help"]}
    known |= {
        off for command in COMMANDS for option in command_options(command).values() for off in option.secondary_opts
    }
    known |= set().union(*OTHER_OPTIONS.values())
    assert sorted(set(OPTION.findall(text_of(path))) - known) == []


def test_every_option_of_other_programs_is_mentioned():
    mentioned = {option for path in PAGES for option in OPTION.findall(text_of(path))}
    assert sorted(set().union(*OTHER_OPTIONS.values()) - mentioned) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_page_of_commands_has_every_option_with_its_default(command):
    found = {}
    for cells in rows(section(DOCS / "cli.md", f"## {command.name}")):
        if names := OPTION.findall(cells[0]):
            found[names[0]] = cells[1].strip("`")
    options = command_options(command)
    assert set(found) == set(options)
    for name, option in options.items():
        if type(option.default) in (int, float, str):
            assert found[name] == str(option.default), name
        elif option.is_flag:
            assert found[name] == ("on" if option.default is True else "off"), name


def command_lines(path: Path) -> list[list[str]]:
    """The words of each line in the page's blocks that calls this program, without the `torchrun` before it."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if called := CALL.match(line.partition(" #")[0]):
                found.append([*(["refine"] if called[1] else []), *shlex.split(called[2] or "")])
    return found


@pytest.mark.parametrize("path", [page for page in PAGES if command_lines(page)], ids=lambda path: path.name)
def test_every_command_line_of_a_page_is_understood(path, monkeypatch):
    monkeypatch.setattr(sys.modules["gan_refine.cli.refine"], "read_config", lambda path: {})
    commands = {command.name: command for command in COMMANDS}
    for name, *arguments in command_lines(path):
        if arguments[-1:] != ["..."]:
            commands[name].make_context(name, arguments)


def test_command_lines_are_found_and_a_wrong_one_is_refused(tmp_path):
    assert sum(len(command_lines(page)) for page in PAGES) > 25
    page = tmp_path / "page.md"
    page.write_text("```\ntorchrun --nproc-per-node=2 run_refine.py --kimg=1 \\\n    --batch=x  # remark\n```\n")
    assert command_lines(page) == [["refine", "--kimg=1", "--batch=x"]]
    with pytest.raises(click.BadParameter, match="'x' is not a valid integer"):
        refine.make_context("refine", command_lines(page)[0][1:])


# The objectives


def test_every_objective_has_a_row_and_every_option_is_listed_with_its_default():
    page = text_of(DOCS / "objectives.md")
    first_table = {cells[0].strip("`") for cells in rows(page.partition("## Options")[0])}
    assert set(OBJECTIVES) <= first_table
    options = {name: build_options(cls.Options, {}, name) for name, cls in OBJECTIVES.items()}
    text = page.partition("## Options")[2]
    for name, values in options.items():
        for key, value in vars(values).items():
            cells = [row for row in rows(text) if f"`{key}`" in " ".join(row[:2])]
            assert cells, f"{key} of {name} is not listed"
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            assert any(shown in " ".join(row) for row in cells), f"{key} of {name} is {shown}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_objectives_that_a_page_names_exist_with_their_options(path):
    specs = re.findall(r"--objective=([a-z][\w.,=+-]*)", text_of(path))
    for spec in {spec.rstrip(".,") for spec in specs} - {"auto"}:
        name, given = parse_spec(spec)
        if name != "bounded":  # the example of architecture.md
            build_options(OBJECTIVES[name].Options, given, name)
