"""The data that --fid-ref names: auto, an .npz file, or images in a folder or a zip file."""

from collections.abc import Sequence
from pathlib import Path

from gan_refine import assets
from gan_refine.errors import FileFormatError, OptionError
from gan_refine.metrics import Detector, Reference, load_reference

DataSource = Reference | Path | None  # a path is a folder or zip of images, which are not read yet


def data_sources(text: str, detectors: Sequence[Detector]) -> list[DataSource]:
    """The data for the features of each detector, None where there are none. Raises UserError.

    `auto` is the reference of an embedded detector. Images are read for every detector; an .npz file belongs to the detector that
    it names, or to the first.
    """
    if text == "auto":
        return [_embedded(detector.name) for detector in detectors]
    path = Path(text)
    if text.partition(",")[0] == "teacher" and not ("," in text and path.exists()):
        raise OptionError(f"--fid-ref={text}: --fid-ref is for data; the teacher's samples are --teacher-steps")
    if path.is_dir() or path.suffix.lower() == ".zip":
        return [path for _ in detectors]
    try:
        reference = load_reference(assets.resolve("reference", text))
    except FileFormatError as error:
        raise FileFormatError(f"{error}; or a folder or zip of images") from error
    names = [detector.name for detector in detectors]
    owner = names.index(reference.detector) if reference.detector in names else 0
    reference.check(detectors[owner])
    return [reference if number == owner else None for number in range(len(detectors))]


def _embedded(name: str) -> Reference | None:
    entry = assets.catalog().get(name)
    return (
        None if entry is None or "reference" not in entry.files else load_reference(assets.resolve("reference", name))
    )
