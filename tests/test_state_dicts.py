"""State dicts with a JSON beside them: what is read, what is refused, what is written."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gan_refine.errors import FileFormatError
from gan_refine.generators import StyleGan2
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Generator
from gan_refine.pickles import (
    build_discriminator,
    build_generator,
    build_teacher,
    read_pickle,
    read_state_dict,
    write_state_dict,
)
from gan_refine.teachers import load_edm

SIZES = {"z_dim": 2, "c_dim": 2, "w_dim": 2, "img_resolution": 4, "img_channels": 3}
MORE = {"mapping_kwargs": {"num_layers": 1}, "synthesis_kwargs": {"channel_base": 8, "channel_max": 2}}
UNET = {"model_channels": 16, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}


def make_generator() -> Generator:
    torch.manual_seed(1)
    return Generator(**SIZES, **MORE).eval().requires_grad_(False)


def make_teacher() -> EDMPrecond:
    torch.manual_seed(1)
    net = EDMPrecond(8, 1, 2, **UNET)
    for parameter in net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def images(net: torch.nn.Module) -> torch.Tensor:
    return net(torch.ones([2, 2]), torch.eye(2), noise_mode="const")


def safe(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(weights, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def saved(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    torch.save(weights, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def saved_of_old(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    torch.save(weights, path.with_suffix(".pth"), _use_new_zipfile_serialization=False)
    return path.with_suffix(".pth")


def describe(path: Path, name: str = "stylegan2", **kwargs: object) -> None:
    path.with_suffix(".json").write_text(json.dumps({"class": name, "init_kwargs": kwargs or {**SIZES, **MORE}}))


WRITERS = (safe, saved, saved_of_old)


@pytest.mark.parametrize("write", WRITERS)
def test_generator(tmp_path: Path, write: Callable[[Path, dict], Path]) -> None:
    path = write(tmp_path / "g", make_generator().state_dict())
    describe(path)
    file = read_state_dict(path)
    assert torch.equal(images(build_generator(file)), images(make_generator()))
    assert build_discriminator(file) is None


@pytest.mark.parametrize("write", WRITERS)
def test_teacher(tmp_path: Path, write: Callable[[Path, dict], Path]) -> None:
    path = write(tmp_path / "t", make_teacher().state_dict())
    describe(path, "EDMPrecond", img_resolution=8, img_channels=1, label_dim=2, **UNET)
    arguments = torch.randn([2, 1, 8, 8]), torch.tensor([0.3, 2.0]), torch.eye(2)
    assert torch.equal(build_teacher(read_state_dict(path))(*arguments), make_teacher()(*arguments))
    assert load_edm(path).spec.num_classes == 2
    with pytest.raises(FileFormatError, match="'EDMPrecond' is not a generator; pass it as --teacher"):
        build_generator(read_state_dict(path))


def test_views_of_one_storage(tmp_path: Path) -> None:
    """A state dict whose tensors were cut from one: each is read at its own place."""
    flat = torch.cat([tensor.reshape(-1) for tensor in make_generator().state_dict().values()])
    weights, start = {}, 0
    for name, tensor in make_generator().state_dict().items():
        weights[name] = flat[start : start + tensor.numel()].reshape(tensor.shape)
        start += tensor.numel()
    for write in (saved, saved_of_old):
        path = write(tmp_path / "g", weights)
        describe(path)
        assert torch.equal(images(build_generator(read_state_dict(path))), images(make_generator()))


def test_refined_it_is_a_pickle(tmp_path: Path) -> None:
    """Without a discriminator there is an empty module under D, for tools that ask for one."""
    path = safe(tmp_path / "g", make_generator().state_dict())
    describe(path)
    StyleGan2.load(path).export(tmp_path / "out.pkl")
    file = read_pickle(tmp_path / "out.pkl")
    for key in ("G", "G_ema"):
        assert torch.equal(images(build_generator(file, key)), images(make_generator()))
    assert build_discriminator(file) is None
    assert isinstance(pickle.loads((tmp_path / "out.pkl").read_bytes())["D"], torch.nn.Module)


@pytest.mark.parametrize("make", [make_generator, make_teacher])
def test_written_and_read_again(tmp_path: Path, make: Callable[[], torch.nn.Module]) -> None:
    net = make()
    write_state_dict(tmp_path / "n.safetensors", net)
    write_state_dict(tmp_path / "n.safetensors", net)  # the same description may be there
    file = read_state_dict(tmp_path / "n.safetensors")
    built = build_generator(file) if isinstance(net, Generator) else build_teacher(file)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in built.state_dict().items())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["n.json", "n.safetensors"]


def test_another_description_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text('{"origin": "mine"}')
    with pytest.raises(FileFormatError, match="already exists with another description"):
        write_state_dict(tmp_path / "n.safetensors", make_generator())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["n.json"]
    with pytest.raises(FileFormatError, match=r"does not end in \.safetensors"):
        write_state_dict(tmp_path / "n.bin", make_generator())


def refused(path: Path) -> str:
    with pytest.raises(FileFormatError) as caught:
        build_generator(read_state_dict(path))
    assert str(caught.value).isprintable()
    assert str(path.with_suffix("")) in str(caught.value)
    assert not (path.parent / "ran").exists()
    return str(caught.value)


@pytest.mark.parametrize("write", WRITERS)
def test_weights_that_do_not_fit(tmp_path: Path, write: Callable[[Path, dict], Path]) -> None:
    weights = make_generator().state_dict()
    name = "mapping.fc0.weight"
    cases = {
        f"lacks {name}": {key: value for key, value in weights.items() if key != name},
        "has the unknown more": weights | {"more": torch.zeros(1)},
        f"has in another shape {name}": weights | {name: torch.zeros(3)},
        f"has complex numbers in {name}": weights | {name: weights[name].to(torch.complex64)},
    }
    for message, wrong in cases.items():
        path = write(tmp_path / "g", wrong)
        describe(path)
        assert message in refused(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "g.json is missing: it must say which network"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 100_000, "is not JSON"),
        ("[]", "holds list"),
        ("{}", "holds nothing"),
        ('{"class": "stylegan2"}', "holds class"),
        ('{"class": "stylegan2", "init_kwargs": {}, "more": 1}', "more; expected"),
        ('{"class": 3, "init_kwargs": {}}', "class that is not a string"),
        ('{"class": "os.system", "init_kwargs": {}}', "'os.system' is not a generator; known are stylegan2, "),
        ('{"class": "stylegan2", "init_kwargs": {}}', "does not fit the network it names"),
        (json.dumps({"class": "stylegan2", "init_kwargs": SIZES | {"colour": 1}}), "colour"),
        (json.dumps({"class": "stylegan2", "init_kwargs": SIZES | {"z_dim": 1 << 40}}), "z_dim is larger"),
        (json.dumps({"class": "stylegan2", "init_kwargs": SIZES | {"z_dim": 1 << 20}}), "more numbers than"),
        (json.dumps({"class": "stylegan2", "init_kwargs": SIZES}), "more numbers than"),
        (" " * (1 << 21), "more than the 1048576 allowed"),
    ],
)
def test_descriptions(tmp_path: Path, text: str | None, message: str) -> None:
    path = safe(tmp_path / "g", make_generator().state_dict())
    if text is not None:
        path.with_suffix(".json").write_text(text)
    assert message in refused(path)


def test_one_network_has_no_choice(tmp_path: Path) -> None:
    path = safe(tmp_path / "g", make_generator().state_dict())
    describe(path)
    with pytest.raises(FileFormatError, match="holds one network and none called 'G'"):
        StyleGan2.load(path, "G")


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(f"archive/{name}", data)
    return stream.getvalue()


class Attack:
    """Runs a command when Python's pickle reads it."""

    def __reduce__(self) -> tuple:
        return __import__("os").system, ("touch ran",)


class Bomb:
    """A tensor over a storage that declares more numbers than are there."""

    def __init__(self, count: int) -> None:
        self.count = count


class BombPickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", torch.FloatStorage, "0", "cpu", obj.count) if isinstance(obj, Bomb) else None


def bomb(count: int) -> bytes:
    class Held:
        def __reduce__(self) -> tuple:
            return torch._utils._rebuild_tensor_v2, (Bomb(count), 0, (count,), (1,), False, {})

    stream = io.BytesIO()
    BombPickler(stream, protocol=2).dump({"mapping.w_avg": Held()})
    return stream.getvalue()


def overlapping() -> bytes:
    stream = io.BytesIO()
    torch.save({str(index): base[:] for base in [torch.zeros(100)] for index in range(100)}, stream)
    return stream.getvalue()


HOSTILE = {
    "command.pt": zipped({"data.pkl": pickle.dumps({"a": Attack()}, 2)}),
    "plain pickle.pt": pickle.dumps({"a": Attack()}),
    "no archive.pt": b"",
    "2 TiB.pt": zipped({"data.pkl": bomb(1 << 39), "data/0": bytes(8)}),
    "no storage.pt": zipped({"data.pkl": bomb(2)}),
    "compressed.pt": zipped({"data.pkl": bomb(2), "data/0": bytes(1 << 24)}, zipfile.ZIP_DEFLATED),
    "big-endian.pt": zipped({"byteorder": b"big", "data.pkl": bomb(2), "data/0": bytes(8)}),
    "foreign zip.pt": zipped({"letter.txt": b"dear reader"}),
    "zip cut.pt": zipped({"data.pkl": bomb(2), "data/0": bytes(8)})[:-30],
    "number.pt": zipped({"data.pkl": pickle.dumps(3, 2)}),
    "nested.pt": zipped({"data.pkl": pickle.dumps({"a": {"b": 1}}, 2)}),
    "overlapping.pt": overlapping(),
    "header of 2 EiB.safetensors": struct.pack("<Q", 1 << 61) + b"{}",
    "no header.safetensors": b"",
    "tensor of 2 TiB.safetensors": (lambda header: struct.pack("<Q", len(header)) + header + bytes(8))(
        b'{"a":{"dtype":"F32","shape":[549755813888],"data_offsets":[0,2199023255552]}}'
    ),
    "overflow.safetensors": (lambda header: struct.pack("<Q", len(header)) + header + bytes(8))(
        b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}'
    ),
    "pickle.safetensors": pickle.dumps({"a": Attack()}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    describe(path)
    assert "cannot be opened safely" in refused(path) or "is damaged" in refused(path)


@pytest.mark.parametrize("write", WRITERS)
def test_cut_and_flipped_files(tmp_path: Path, write: Callable[[Path, dict], Path]) -> None:
    path = write(tmp_path / "g", make_generator().state_dict())
    describe(path)
    data = path.read_bytes()
    for part in range(50):
        path.write_bytes(data[: part * len(data) // 50])
        refused(path)
    rng = torch.Generator().manual_seed(0)
    for _ in range(100):
        changed = bytearray(data)
        changed[int(torch.randint(len(data), [], generator=rng))] ^= 1 << int(torch.randint(8, [], generator=rng))
        path.write_bytes(changed)
        try:
            build_generator(read_state_dict(path))
        except FileFormatError as error:
            assert str(error).isprintable()
