"""Coverage-guided fuzzing of everything that reads strangers' files: pip install atheris, then

PYTHONPATH=. python tests/fuzz_reader.py networks CORPUS_FOLDER -max_total_time=600
PYTHONPATH=. python tests/fuzz_reader.py inputs CORPUS_FOLDER -max_total_time=600

`networks` are pickles and state dicts; `inputs` are state dicts, .npz references, image folders and zips. The folder gets seeds and
keeps what libFuzzer finds; its options follow. Any exception but a UserError ends the run. The first byte of an input chooses
what the rest is.
"""

import io
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import safetensors.torch
import torch
from PIL import Image

with atheris.instrument_imports(include=["gan_refine.pickles", "gan_refine.metrics"]):
    from gan_refine.metrics import load_reference, read_images
    from gan_refine.pickles import (
        build_discriminator,
        build_generator,
        build_teacher,
        describe,
        read_networks,
        write_refined,
    )

import hostile_pickles
import tensorflow_pickles

from gan_refine.errors import UserError
from gan_refine.networks.stylegan2 import Discriminator, Generator
from gan_refine.pickles import PickleFile
from gan_refine.pickles.allowlist import GLOBALS

SIZES = {"z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 4, "img_channels": 3}
MORE = {"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_base": 8, "channel_max": 2}}
JSON = (
    b'{"class": "stylegan2", "init_kwargs": {"z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 4, "img_channels": 3, '
    b'"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_base": 8, "channel_max": 2}}}'
)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def weights() -> dict[str, torch.Tensor]:
    return Generator(**SIZES, **MORE).state_dict()


def torch_file(zipped: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(weights(), stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def tensorflow_file(protocol: int) -> bytes:
    static = {"resolution": 4, "num_channels": 3, "label_size": 2, "fmap_base": 4, "fmap_max": 2}
    own = {"latent_size": 2, "dlatent_size": 2, "mapping_layers": 1}
    generator = tensorflow_pickles.generator(Generator(**SIZES, **MORE).requires_grad_(False), **static, **own)
    judge = Discriminator(2, 4, 3, channel_base=8, channel_max=2, mapping_kwargs={"num_layers": 0})
    return tensorflow_pickles.dump(
        (generator, tensorflow_pickles.discriminator(judge.requires_grad_(False), **static), generator), protocol
    )


def picture(form: str, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert(mode).save(stream, form)
    return stream.getvalue()


def zip_of_pictures() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("a.png", "b/c.png", "__MACOSX/._a.png", "d.txt"):
            archive.writestr(name, picture("png"))
    return stream.getvalue()


def reference(**more: object) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, mu=np.zeros(2), sigma=np.eye(2), **more)
    return stream.getvalue()


def input_seeds() -> dict[str, list[bytes]]:
    """Proper files by the name of their kind."""
    found = {
        name: [picture(form, mode) for mode in ("L", "P", "LA", "RGB")]
        for name, form in PICTURES.items()
        if form == "png"
    }
    found |= {name: [picture(form), picture(form, "RGB")] for name, form in PICTURES.items() if form != "png"}
    found["fuzzed.npz"] = [reference(), reference(features=np.zeros([3, 2]), num_images=9, ddof=1, detector="x")]
    return found | {"fuzzed.zip": [zip_of_pictures()], **state_seeds()}


def state_seeds() -> dict[str, list[bytes]]:
    found = {"fuzzed.pt": [torch_file(zipped) for zipped in (False, True)]}
    return found | {"fuzzed.safetensors": [safetensors.torch.save(weights())], "fuzzed.json": [JSON]}


def network_seeds() -> dict[str, list[bytes]]:
    """Proper files and the hostile corpus."""
    pickles = [hostile_pickles.small(), *(tensorflow_file(protocol) for protocol in (0, 2, 4))]
    pickles += [hostile_pickles.in_gan(payload) for payload in hostile_pickles.HOSTILE.values() if len(payload) < 5000]
    return {"fuzzed.pkl": [*pickles, *state_seeds()["fuzzed.pt"]], **state_seeds()}


def read_everything(path: Path) -> None:
    """All that the commands do with a file of a stranger."""
    describe(path)
    file = read_networks(path)
    build_discriminator(file)
    if isinstance(file, PickleFile) and "ema" in file.networks():
        build_teacher(file)
        return
    net = build_generator(file)
    if isinstance(file, PickleFile) and not file.tensorflow():
        write_refined(file, net.state_dict(), FOLDER / "out.pkl")


def read_state(path: Path) -> None:
    """A state dict with a proper description beside it, or a description beside a proper state dict."""
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
        path.write_bytes(PROPER)
    else:
        path.with_suffix(".json").write_bytes(JSON)
    read_everything(path)


def read_folder(path: Path) -> None:
    """The folder that holds this picture alone."""
    for channels in (1, 3, 4):
        list(read_images(path.parent, channels)[1])


def read_zip(path: Path) -> None:
    list(read_images(path)[1])


PICTURES = {"a/fuzzed.png": "png", "b/fuzzed.jpg": "jpeg", "c/fuzzed.bmp": "bmp", "d/fuzzed.webp": "webp"}
STATES: dict[str, Callable[[Path], object]] = dict.fromkeys(
    ("fuzzed.pt", "fuzzed.safetensors", "fuzzed.json"), read_state
)
TARGETS: dict[str, dict[str, Callable[[Path], object]]] = {
    "networks": {"fuzzed.pkl": read_everything, **STATES},
    "inputs": {**STATES, "fuzzed.npz": load_reference, "fuzzed.zip": read_zip, **dict.fromkeys(PICTURES, read_folder)},
}


def one_input(target: str) -> Callable[[bytes], None]:
    kinds = list(TARGETS[target].items())

    def run(data: bytes) -> None:
        kind, action = kinds[data[0] % len(kinds)] if data else kinds[0]
        path = FOLDER / kind
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data[1:])
        try:
            action(path)
        except UserError as error:
            if not str(error).isprintable():
                raise AssertionError(f"a message of several lines: {error!r}") from error

    return run


def dictionary() -> str:
    """What files of these formats are made of, for libFuzzer to put together."""
    words = [f"c{module}\n{name}\n".encode() for module, name in GLOBALS]
    words += [
        b"ctorch\nFloatStorage\n",
        b"(tR",
        b"\x85R",
        b"}(",
        b"](",
        b"u",
        b"e",
        b"q\x00",
        b"h\x00",
        b"K\x01",
        b"Ntb",
    ]
    words += [hostile_pickles.text(word) for word in ("_parameters", "_modules", "_init_kwargs", "storage", "latin1")]
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words)


def main() -> None:
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    held = network_seeds() if target == "networks" else input_seeds()
    for number, kind in enumerate(TARGETS[target]):
        for index, seed in enumerate(held[kind]):
            (corpus / f"seed{number}-{index:03d}").write_bytes(bytes([number]) + seed)
    (FOLDER / "words.dict").write_text(dictionary())
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options = [f"-dict={FOLDER / 'words.dict'}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=40000", *sys.argv[3:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], one_input(target))
    atheris.Fuzz()


PROPER = safetensors.torch.save(weights())

if __name__ == "__main__":
    main()
