"""The layers, read from the import statements: a module imports from lower ones, never upward or sideways."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROWS = [
    ["errors", "interfaces", "foundation", "version"],
    ["config"],
    ["noise", "pixels", "ema", "files", "finite", "labels", "precision"],
    ["networks", "assets", "sampling", "features", "efficientnet"],
    ["pickles", "fused_blocks"],  # builds networks from files; makes them fast
    ["generators", "teachers", "objectives", "metrics"],
    ["refine", "evaluation"],
    ["run"],
    ["cli"],
    ["run_refine", "__main__", "gan_refine"],
]
LAYER = {unit: number for number, row in enumerate(ROWS) for unit in row}
CONTRACTS_ONLY = {"refine"}  # sees layers 0 and 1, never a concrete class
USE_PUBLIC_NAMES = {"run_refine", "cli"}  # entry points: may import gan_refine itself
MAY_PRINT = {"run_refine", "cli", "run"}
NO_SHELL = {"noise", "ema", "labels", "sampling", "refine", "objectives"}  # mathematics imports none of:
SHELL = {"os", "json", "click", "sys", "tqdm"}
FOUNDATION = {"torch", "numpy", "torch_utils", *sys.stdlib_module_names}  # all that torch_utils may import

# All that a source embedded in a pickle may use of torch_utils: what the published tools have too (FORMATS).
EMBEDDED_NAMES = {
    "torch_utils.misc": {"assert_shape", "profiled_function", "suppress_tracer_warnings"},
    "torch_utils.persistence": {"persistent_class"},
    "torch_utils.ops.conv2d_resample": {"conv2d_resample"},
    "torch_utils.ops.upfirdn2d": {"setup_filter", "upsample2d", "downsample2d"},
    "torch_utils.ops.bias_act": {"bias_act", "activation_funcs"},
    "torch_utils.ops.fma": {"fma"},
}

Imported = tuple[ast.stmt, str, str]  # statement, full dotted name, the name that it is bound to


def module_name(path: Path) -> str:
    """gan_refine/metrics/__init__.py -> gan_refine.metrics.__init__"""
    return ".".join(path.with_suffix("").parts)


def imports(tree: ast.Module, module: str) -> Iterator[Imported]:
    """Every import, wherever it stands; relative ones made absolute. `from a import b` counts as an import of a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name, alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node, f"{base}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def unit_of(dotted: str) -> str:
    """The part of the house that a name belongs to: a module or folder of gan_refine, or else the top-level name."""
    top, _, rest = dotted.partition(".")
    child = rest.partition(".")[0]
    return child if top == "gan_refine" and child in LAYER else top


def violations(module: str, source: str) -> list[str]:
    """What the module does against these rules, one line each, with line numbers."""
    tree = ast.parse(source)
    unit = unit_of(module)
    if unit == "torch_utils":
        found = [*outside_foundation(tree, module), *prints(tree, allowed=module == "torch_utils.custom_ops")]
    elif unit == "gan_refine" and module != "gan_refine.__init__":
        return [f"{module}: no layer is given for this module in ROWS"]
    else:
        found = [*wrong_layers(tree, module, unit), *prints(tree, allowed=unit in MAY_PRINT)]
        if unit == "networks" and not module.endswith("__init__"):
            found += [*outside_foundation(tree, module), *outside_embedded_names(tree, module)]
    return [f"{module}:{problem}" for problem in found]


def wrong_layers(tree: ast.Module, module: str, unit: str) -> Iterator[str]:
    for node, dotted, _ in imports(tree, module):
        other = unit_of(dotted)
        if other in SHELL and unit in NO_SHELL:
            yield f"{node.lineno} is mathematics and imports {other}"
        if other not in LAYER or other == unit or (unit in USE_PUBLIC_NAMES and other == "gan_refine"):
            continue
        if LAYER[other] >= LAYER[unit]:
            yield f"{node.lineno} is of layer {LAYER[unit]} and imports {dotted} of layer {LAYER[other]}"
        elif unit in CONTRACTS_ONLY and LAYER[other] > LAYER["noise"]:
            yield f"{node.lineno} knows contracts only and imports {dotted} of layer {LAYER[other]}"


def outside_foundation(tree: ast.Module, module: str) -> Iterator[str]:
    """Imports of anything but torch, numpy, the standard library and torch_utils.

    A relative import inside a function is allowed: loading the module does not need it.
    """
    at_load = set(ast.walk(tree)) - {inner for node in ast.walk(tree) if is_function(node) for inner in ast.walk(node)}
    for node, dotted, _ in imports(tree, module):
        lazy = isinstance(node, ast.ImportFrom) and node.level > 0 and node not in at_load
        if dotted.partition(".")[0] not in FOUNDATION and not lazy:
            yield f"{node.lineno} may import torch, numpy and torch_utils only, and imports {dotted}"


def outside_embedded_names(tree: ast.Module, module: str) -> Iterator[str]:
    """Names of torch_utils, imported or reached through an imported module, that the published tools lack."""
    modules = {}
    for node, dotted, bound in imports(tree, module):
        if dotted in EMBEDDED_NAMES:
            modules[bound] = dotted
        elif dotted.partition(".")[0] == "torch_utils":
            parent, _, name = dotted.rpartition(".")
            if name not in EMBEDDED_NAMES.get(parent, set()):
                yield f"{node.lineno} is embedded in pickles and imports {dotted}, which published tools lack"
    for node in ast.walk(tree):
        dotted = modules.get(ast.unparse(node.value)) if isinstance(node, ast.Attribute) else None
        if dotted is not None and node.attr not in EMBEDDED_NAMES[dotted]:
            yield f"{node.lineno} is embedded in pickles and uses {dotted}.{node.attr}, which published tools lack"


def prints(tree: ast.Module, allowed: bool = False) -> Iterator[str]:
    for node in [] if allowed else ast.walk(tree):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called in {"print", "click.echo", "sys.stdout.write", "sys.stderr.write", "tqdm.write"}:
            yield f"{node.lineno} prints; only {', '.join(sorted(MAY_PRINT))} do"


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def project_files() -> list[Path]:
    folders = [path for name in ("gan_refine", "torch_utils") for path in sorted((ROOT / name).rglob("*.py"))]
    entry = ROOT / "run_refine.py"
    return [path.relative_to(ROOT) for path in [*folders, *([entry] if entry.exists() else [])]]


@pytest.mark.parametrize("path", project_files(), ids=str)
def test_layers(path: Path) -> None:
    found = violations(module_name(path), (ROOT / path).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module, source",
    [
        ("gan_refine.noise", "from gan_refine.refine import refine"),  # up
        ("gan_refine.noise", "from gan_refine import refine"),
        ("gan_refine.noise", "from . import refine"),
        ("gan_refine.noise", "import gan_refine.refine as loop"),
        ("gan_refine.noise", "def late():\n    from gan_refine.ema import WeightAverage"),  # sideways, and late
        ("gan_refine.errors", "from gan_refine import __version__"),
        ("gan_refine.generators.toy", "from gan_refine.teachers import edm"),
        ("gan_refine.generators.toy", "from ..metrics.moments import Moments"),
        ("gan_refine.generators.__init__", "from ..metrics import moments"),
        ("gan_refine.run.build", "from gan_refine.cli import options"),
        ("gan_refine.refine", "from gan_refine.sampling import heun"),  # lower, but no contract
        ("gan_refine.refine", "from gan_refine.objectives import DiffInstruct"),
        ("gan_refine.cli.generate", "import run_refine"),
        ("gan_refine.unheard_of", ""),
        ("gan_refine.ema", "import json"),
        ("gan_refine.metrics.moments", "print(1)"),
        ("torch_utils.misc", "import click"),
        ("torch_utils.misc", "from gan_refine.errors import UserError"),
        ("torch_utils.misc", "def f():\n    print('x')"),
        ("gan_refine.networks.stylegan2", "import scipy"),
        ("gan_refine.networks.stylegan2", "from gan_refine.errors import UserError"),
        ("gan_refine.networks.edm_precond", "from .edm_unet import MODELS"),  # not late
        ("gan_refine.networks.stylegan2", "from torch_utils.ops import upfirdn2d\nupfirdn2d.filter2d(1)"),
        ("gan_refine.networks.stylegan2", "from torch_utils.ops.upfirdn2d import upfirdn2d"),
        ("gan_refine.networks.stylegan2", "import torch_utils.misc\ntorch_utils.misc.other()"),
        ("gan_refine.networks.stylegan2", "from torch_utils import distributed"),
    ],
)
def test_planted_violation_is_caught(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    "module, source",
    [
        ("gan_refine.noise", "import torch\nfrom gan_refine.errors import UserError\nfrom .interfaces import Images"),
        ("gan_refine.metrics.frechet", "from gan_refine.metrics.moments import Moments\nfrom . import moments"),
        ("gan_refine.metrics.__init__", "from .moments import Moments"),
        ("gan_refine.refine", "from gan_refine import ema, noise\nfrom torch_utils import distributed"),
        ("gan_refine.__init__", "from gan_refine.refine import refine"),
        ("run_refine", "import click\nfrom gan_refine import __version__, metrics\nclick.echo(1)"),
        ("gan_refine.networks.edm_precond", "def make():\n    from .edm_unet import MODELS"),
        ("gan_refine.networks.stylegan2", "from torch_utils import misc\nmisc.assert_shape(1, 2)"),
        ("torch_utils.ops.conv2d_resample", "import torch\nfrom .upfirdn2d import _padding"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(module, source) == []
