"""Names of embedded models -> verified local files, by the catalog in pretrained/."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gan_refine.errors import FileFormatError

PRETRAINED = Path(__file__).parent.parent / "pretrained"
KINDS = ("gan", "teacher", "detector", "reference")


@dataclass(frozen=True)
class Measurement:
    """A distance recorded in the catalog: of the teacher with that digest, by a sampler of so many steps."""

    metric: str
    value: float
    steps: int


@dataclass(frozen=True)
class Pair:
    """One embedded pair: file names by kind, their digests, and what was measured of the teacher."""

    name: str
    files: dict[str, str]
    sha256: dict[str, str]
    teacher_measurements: tuple[Measurement, ...]


def catalog(folder: Path = PRETRAINED) -> dict[str, Pair]:
    """The embedded pairs by name."""
    path = folder / "catalog.json"
    if not path.is_file():
        raise FileFormatError(f"there is no {path}; the embedded models come with a clone of the repository")
    entries = json.loads(path.read_text())["pairs"]
    return {name: _pair(name, entry) for name, entry in entries.items()}


def _pair(name: str, entry: dict) -> Pair:
    files = {kind: entry[kind]["file"] for kind in KINDS}
    digests = {kind: entry[kind]["sha256"] for kind in KINDS}
    measurements = tuple(Measurement(m["metric"], m["value"], m["steps"]) for m in entry["teacher"].get("measured", []))
    return Pair(name, files, digests, measurements)


def resolve(kind: str, text: str) -> Path:
    """The local file of `kind` for a catalog name or a path. Raises FileFormatError if there is none or its digest is wrong."""
    pairs = catalog()
    if text in pairs:
        path = PRETRAINED / pairs[text].files[kind]
        if not path.is_file() or sha256(path) != pairs[text].sha256[kind]:
            raise FileFormatError(f"{path} is missing or damaged; restore it with: git checkout -- pretrained")
        return path
    path = Path(text)
    if path.is_dir():
        raise FileFormatError(f"--{kind}={text} is a folder; give a file or one of {', '.join(sorted(pairs))}")
    if not path.is_file():
        raise FileFormatError(f"--{kind}={text} is not a file; give a file or one of {', '.join(sorted(pairs))}")
    return path


def recorded_teacher_value(teacher: Path, metric: str, steps: int) -> float | None:
    """The catalog's measurement for the teacher with this file's digest, metric and step count, or None."""
    digest = sha256(teacher)
    for pair in catalog().values():
        if pair.sha256["teacher"] == digest:
            for measurement in pair.teacher_measurements:
                if (measurement.metric, measurement.steps) == (metric, steps):
                    return measurement.value
    return None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
