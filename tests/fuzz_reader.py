"""Coverage-guided fuzzing of everything that reads strangers' files: pip install atheris, then

PYTHONPATH=. python tests/fuzz_reader.py CORPUS_FOLDER -max_total_time=600

The folder gets seeds and keeps what libFuzzer finds; its options follow. Any exception but a UserError ends the run. The first
byte of an input chooses what the rest is: a pickle, a .pt, a .safetensors or the JSON beside one.
"""

import io
import sys
import tempfile
from pathlib import Path

import atheris
import safetensors.torch
import torch

with atheris.instrument_imports(include=["gan_refine.pickles"]):
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
KINDS = ("fuzzed.pkl", "fuzzed.pt", "fuzzed.safetensors", "fuzzed.json")
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


def seeds() -> list[bytes]:
    """Proper files of every kind and the hostile corpus, each behind the byte that names its kind."""
    pickles = [hostile_pickles.small(), *(tensorflow_file(protocol) for protocol in (0, 2, 4))]
    pickles += [hostile_pickles.in_gan(payload) for payload in hostile_pickles.HOSTILE.values() if len(payload) < 5000]
    found = [b"\0" + data for data in pickles]
    found += [b"\1" + torch_file(zipped) for zipped in (False, True)]
    return [*found, b"\2" + safetensors.torch.save(weights()), b"\3" + JSON]


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


def test_one_input(data: bytes) -> None:
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    (FOLDER / kind).write_bytes(data[1:])
    path = (FOLDER / kind).with_suffix(".safetensors") if kind.endswith(".json") else FOLDER / kind
    if kind.endswith(".json"):
        path.write_bytes(PROPER)
    else:
        (FOLDER / "fuzzed.json").write_bytes(JSON)
    try:
        read_everything(path)
    except UserError as error:
        if not str(error).isprintable():
            raise AssertionError(f"a message of several lines: {error!r}") from error


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
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed{number:03d}").write_bytes(seed)
    (FOLDER / "words.dict").write_text(dictionary())
    torch.set_num_threads(1)
    options = [f"-dict={FOLDER / 'words.dict'}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=40000", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], test_one_input)
    atheris.Fuzz()


PROPER = safetensors.torch.save(weights())

if __name__ == "__main__":
    main()
