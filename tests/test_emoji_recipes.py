"""The recipes of emoji32: the data set from two archives, augmentation, a training of seconds, export and neighbours."""

import io
import json
import math
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gan_refine.assets import sha256
from gan_refine.generators import StyleGan2
from gan_refine.interfaces import ImageSpec, Latents
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.teachers import load_edm
from recipes import augment, datasets, emoji, export, neighbours, train_gan, train_teacher
from recipes.training import learning_rate

TONES = ("1F3FB", "1F3FF")
# Base emoji, category, code points of the variations: the third has other code points than its base, the fifth no tones.
TABLE = [
    ("1F600", "Smileys & Emotion", []),
    ("1F44B-FE0F", "People & Body", [f"1F44B-{tone}" for tone in TONES]),
    ("1F46B", "People & Body", ["1F469-1F3FB-200D-1F468-1F3FF"]),
    ("1F434", "Animals & Nature", []),
    ("1F9E0", "People & Body", []),
]
USED = 7  # images of a vendor that draws all of these without the animal


def png(colour: tuple[int, int, int, int], size: int = 64, left: int | None = None, form: str = "PNG") -> bytes:
    """An image of that colour whose columns before `left`, by default half of them, are transparent."""
    pixels = np.full([size, size, 4], colour, dtype=np.uint8)
    pixels[:, : size // 2 if left is None else left, 3] = 0
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, format=form, lossless=True)
    return stream.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as stream:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            stream.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    """Both packages with the emoji of TABLE, Fluent's without the animal but with a flag of its own."""
    folder = tmp_path_factory.mktemp("packages")
    table, noto, fluent = [], {}, {}
    for number, (base, category, variants) in enumerate(TABLE):
        entry = {"unified": base, "category": category, "subcategory": f"kind-{number}"}
        if variants:
            entry["skin_variations"] = {code: {"unified": code} for code in variants}
        table.append(entry)
        for tone, code in enumerate([base, *variants]):
            colour = (40 * number, 100 * tone, 200, 255)
            noto[f"package/img/google/64/{code.lower()}.png"] = png(colour)
            fluent[f"package/assets/{code.lower().replace('-fe0f', '')}.webp"] = png(colour, 256, form="WEBP")
    del fluent["package/assets/1f434.webp"]
    fluent["package/assets/1f1e6-1f1e8.webp"] = png((1, 2, 3, 255), 256, form="WEBP")
    noto["package/emoji.json"] = json.dumps(table).encode()
    noto["package/img/google/sheets/32.png"] = b"not read"
    return archive(folder / "google.tgz", noto), archive(folder / "fluent.tgz", fluent)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand and the face are held out, whatever their digests are."""
    monkeypatch.setattr(emoji, "held_out", lambda base: base in ("1F44B", "1F600"))


@pytest.fixture
def data(packages, half, tmp_path: Path) -> Path:
    arguments = [*map(str, packages), f"--out={tmp_path / 'emoji.npz'}", f"--sheet={tmp_path / 'sheet.png'}"]
    done = CliRunner().invoke(emoji.main, arguments, catch_exceptions=False)
    assert "6 training images and 8 test images, 4 classes" in done.output
    assert Image.open(tmp_path / "sheet.png").size == (40 * 32, 32)
    return tmp_path / "emoji.npz"


class TestDataSet:
    def test_both_vendors_of_the_categories_alone(self, data: Path) -> None:
        with np.load(data) as arrays:
            names = arrays["names"].tolist()
            assert len(names) == 2 * USED == len(set(names))
            assert {name.split("/")[0] for name in names} == {"noto", "fluent"}
            assert not any("1F434" in name or "1F1E6" in name for name in names)
            assert arrays["class_names"].tolist() == ["kind-0", "kind-1", "kind-2", "kind-4"]
            assert arrays["classes"][names.index("fluent/1F9E0")] == 3

    def test_tones_and_vendors_of_one_base_stand_on_one_side(self, data: Path) -> None:
        with np.load(data) as arrays:
            test = dict(zip(arrays["names"].tolist(), arrays["test"].tolist(), strict=True))
        for vendor in ("noto", "fluent"):
            assert all(test[f"{vendor}/{code}"] for code in ("1F44B", "1F44B-1F3FB", "1F44B-1F3FF", "1F600"))
            assert not any(test[f"{vendor}/{code}"] for code in ("1F46B", "1F469-1F3FB-200D-1F468-1F3FF", "1F9E0"))
        assert len(emoji.load(data, "train")) == 6 and len(emoji.load(data, "test")) == 8

    def test_genders_and_hair_of_one_motif_stand_on_one_side(self) -> None:
        astronauts = {emoji.motif(f"{person}-200D-1F680") for person in ("1F468", "1F469", "1F9D1")}
        runners = {emoji.motif(code) for code in ("1F3C3", "1F3C3-200D-2640", "1F3C3-200D-2642-200D-27A1")}
        families = {emoji.motif(code) for code in ("1F46A", "1F468-200D-1F469-200D-1F467")}
        people = {emoji.motif(code) for code in ("1F468", "1F9D1-200D-1F9B0", "1F469-200D-2642-200D-1F9B3")}
        assert [len(group) for group in (astronauts, runners, families, people)] == [1, 1, 1, 1]
        assert len(astronauts | runners | families | people) == 4

    def test_about_one_base_in_ten_is_held_out(self) -> None:
        share = sum(emoji.held_out(f"{code:X}") for code in range(0x1F000, 0x1F000 + 2000)) / 2000
        assert 0.07 < share < 0.13

    def test_transparent_pixels_weigh_nothing(self) -> None:
        """Black that cannot be seen becomes white; a cell of half red, half nothing is pink, not dark."""
        drawing = Image.open(io.BytesIO(png((255, 0, 0, 255), left=33)))
        made = emoji.flatten(drawing)
        assert made.shape == (3, 32, 32) and made.dtype == np.uint8
        assert made[:, 5, 0].tolist() == [255, 255, 255]
        assert made[:, 5, 31].tolist() == [255, 0, 0]
        assert made[:, 5, 16].tolist() == [255, 128, 128]
        dark = Image.open(io.BytesIO(png((0, 0, 0, 128), left=0)))
        assert made.max() == 255 and emoji.flatten(dark)[0, 0, 0] == 127

    def test_odd_sizes(self) -> None:
        high = Image.new("RGBA", (64, 70), (0, 0, 0, 255))
        assert not emoji.flatten(high).any()
        with pytest.raises(ValueError, match="60x60 pixels; need a shorter side that is a multiple of 32"):
            emoji.flatten(Image.new("RGBA", (60, 60)))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestMoves:
    images = torch.rand([64, 3, 16, 16], generator=rng(1)) * 2 - 1

    def test_nothing_happens_without_probability(self) -> None:
        moved = augment.move(self.images, 0.0, rng())
        assert torch.equal(moved.images, self.images) and not moved.labels.any()
        assert torch.equal(augment.shift(self.images, 0.0, rng()), self.images)
        torch.testing.assert_close(augment.recolour(self.images, 0.0, rng()), self.images)

    def test_flips_are_exact_and_labelled(self) -> None:
        moved = augment.move(self.images, 0.0, rng(), mirror=1.0)
        flipped = moved.labels[:, 0] == 1
        assert 16 < int(flipped.sum()) < 48 and not moved.labels[:, 1:].any()
        assert torch.equal(moved.images[flipped], self.images[flipped].flip(3))
        assert torch.equal(moved.images[~flipped], self.images[~flipped])

    def test_images_without_labels_are_as_they_were(self) -> None:
        moved = augment.move(self.images, 0.2, rng())
        still = (moved.labels == 0).all(dim=1)
        assert 2 < int(still.sum()) < 40
        assert torch.equal(moved.images[still], self.images[still])
        changed = (moved.images != self.images).flatten(1).any(dim=1)
        assert torch.equal(changed, ~still)

    def test_a_label_says_how_an_image_was_moved(self) -> None:
        """A disc of known place and size, measured by its moments, follows the labels of scale and translation."""
        place = torch.arange(64) - 31.5
        disc = ((place[:, None] ** 2 + place**2).sqrt() < 8).float() * 2 - 1
        moved = augment.move(disc.expand(512, 1, 64, 64), 0.5, rng(3))
        mass = ((moved.images + 1) / 2).clamp(0, 1).sum(dim=(1, 2, 3))
        x = (((moved.images + 1) / 2).clamp(0, 1).sum(dim=(1, 2)) @ place) / mass
        _, _, scale, cos, sin, along, across, move_x, move_y = moved.labels.unbind(1)
        alone = (move_x.abs() < 0.4) & (move_y.abs() < 0.4) & (scale > -1)  # no reflection of the disc in sight
        sizes = (along == 0) & (across == 0) & alone
        assert int(sizes.sum()) > 20
        expected = mass.new_tensor(math.pi * 64) * 4 ** (augment.SCALE_STD * scale)
        torch.testing.assert_close(mass[sizes], expected[sizes], rtol=0.05, atol=0)
        torch.testing.assert_close(cos + 1, (1 - sin**2).sqrt() * torch.sign(cos + 1), rtol=0, atol=1e-3)
        shifted = sizes & (scale == 0) & (sin == 0)
        assert int(shifted.sum()) > 5
        torch.testing.assert_close(x[shifted], (64 * augment.TRANSLATE_STD * move_x)[shifted], rtol=0, atol=0.1)

    def test_shifts_are_whole_pixels(self) -> None:
        shifted = augment.shift(self.images, 1.0, rng(2))
        inner = self.images[0, :, 4:12, 4:12]
        found = [(r, c) for r in range(9) for c in range(9) if torch.equal(shifted[0, :, r : r + 8, c : c + 8], inner)]
        assert len(found) == 1 and all(2 <= at <= 6 for at in found[0])
        assert len({image.sum().item() for image in shifted - self.images}) > 30

    def test_hue_keeps_luma_and_the_norm_of_chroma(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("BRIGHTNESS_STD", "CONTRAST_STD", "SATURATION_STD"):
            monkeypatch.setattr(augment, name, 0.0)
        turned = augment.recolour(self.images, 1.0, rng(4))
        luma, before = turned.mean(dim=1), self.images.mean(dim=1)
        signs = (luma * before).sum(dim=(1, 2)).sign()
        assert {-1.0, 1.0} == set(signs.tolist()), "luma is negated in half of the images"
        torch.testing.assert_close(luma, signs[:, None, None] * before, atol=1e-5, rtol=0)
        chroma = [(images - images.mean(dim=1, keepdim=True)).norm(dim=1) for images in (turned, self.images)]
        torch.testing.assert_close(*chroma, atol=1e-5, rtol=0)
        assert (turned - self.images).abs().amax(dim=(1, 2, 3)).min() > 0.01

    def test_gradients_pass(self) -> None:
        pipe = augment.Adaptive(1000)
        pipe.probability = 0.8
        images = self.images.clone().requires_grad_()
        (pipe(images, rng()) * torch.randn(images.shape, generator=rng(5))).sum().backward()
        assert images.grad is not None and all(gradient.any() for gradient in images.grad)


class TestAdaptive:
    def test_probability_follows_the_signs(self) -> None:
        pipe = augment.Adaptive(1000)
        sure, unsure = torch.ones(25, 1), torch.tensor([[1.0], [-1.0]]).repeat(13, 1)[:25]
        for _ in range(3):
            pipe.observe(sure)
        assert pipe.probability == 0
        pipe.observe(sure)
        assert pipe.r_t == 1 and pipe.probability == pytest.approx(0.1)  # 4 batches of 25 of 1000
        for _ in range(80):
            pipe.observe(sure)
        assert pipe.probability == augment.MAX_PROBABILITY
        for _ in range(4):
            pipe.observe(unsure)
        assert pipe.probability == pytest.approx(0.7)
        for _ in range(80):
            pipe.observe(unsure)
        assert pipe.probability == 0

    def test_state(self) -> None:
        pipe, other = augment.Adaptive(1000), augment.Adaptive(1000)
        for _ in range(6):
            pipe.observe(torch.ones(25, 1))
        other.load_state_dict(json.loads(json.dumps(pipe.state_dict())))
        for each in (pipe, other):
            each.observe(torch.ones(25, 1))
            each.observe(-torch.ones(25, 1))
        assert other.probability == pipe.probability and other.r_t == 0.5


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"model_channels": 8, "channel_mult": [1, 1], "augment_dim": augment.NUM_LABELS}
    monkeypatch.setitem(train_teacher.ARCHITECTURES, "emoji32", sizes)
    monkeypatch.setitem(train_gan.SIZES, "emoji32", train_gan.Size(64, 4, z_dim=8, mapping_layers=1))
    monkeypatch.setitem(train_gan.ADAPTIVE, "emoji32", 8)
    # Networks this small need no kernels built.
    monkeypatch.setattr("torch_utils.custom_ops.ENVIRONMENT_IMPL", "ref")


def said(command, *arguments: object) -> str:
    return CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False).output


def test_from_archives_to_exported_networks(tiny, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both trainings go on from their checkpoints; the exported files open and say where they come from."""
    made = tmp_path / "made"
    made.mkdir()
    monkeypatch.setattr(export, "PRETRAINED", made)
    for kind, recipe in (("teacher", train_teacher), ("gan", train_gan)):
        checkpoint, log = tmp_path / f"{kind}.pt", tmp_path / f"{kind}.log"
        common = ["emoji32", f"--data={data}", f"--out={checkpoint}", "--batch=4", "--threads=1"]
        first = said(recipe.main, *common, "--images=8")
        log.write_text(first + said(recipe.main, *common, "--images=24"))
        assert f"emoji32-{kind}.pkl" in said(export.main, kind, "emoji32", checkpoint, f"--log={log}")
        record = json.loads((made / f"emoji32-{kind}.json").read_text())
        assert record["images"] == 24 and "Noto" in record["licence"] and "Fluent" in record["licence"]
        assert [line.split(",")[0] for line in record["curve"]] == ["8 images", "24 images"]
        assert str(tmp_path) not in json.dumps(record)
    assert "held_out" in (tmp_path / "teacher.log").read_text() and "r_t" in (tmp_path / "gan.log").read_text()

    said(export.main, "catalog")
    entry = json.loads((made / "catalog.json").read_text())["pairs"]["emoji32"]
    assert sorted(entry) == ["gan", "teacher"]
    teacher, gan = load_edm(made / "emoji32-teacher.pkl"), StyleGan2.load(made / "emoji32-gan.pkl")
    assert teacher.spec == gan.spec == ImageSpec(3, 32)
    saved = torch.load(tmp_path / "gan.pt", weights_only=True)["state"]["trainer"]
    assert saved["adaptive"]["probability"] <= augment.MAX_PROBABILITY
    latents = gan.draw(2, rng())
    assert isinstance(latents, Latents)
    for key, value in gan.net.state_dict().items():
        assert torch.equal(value, saved["average"][key]), key

    before = (made / "emoji32-gan.pkl").read_bytes()
    said(export.main, "lighten", "emoji32")
    assert (made / "emoji32-gan.pkl").read_bytes() == before, "it has no G"
    with (made / "emoji32-teacher.pkl").open("rb") as stream:
        assert type(pickle.load(stream)["ema"]) is EDMPrecond, "as published tools open it"
    light = load_edm(made / "emoji32-teacher.pkl").net.state_dict()
    for key, value in teacher.net.state_dict().items():
        assert light[key].dtype == torch.float32 and torch.equal(light[key], value.half().float()), key
    record = json.loads((made / "emoji32-teacher.json").read_text())
    assert record["sha256"] == sha256(made / "emoji32-teacher.pkl") and "float16" in record["weights"]

    picture = tmp_path / "near.png"
    options = [
        "emoji32",
        f"--gan={made / 'emoji32-gan.pkl'}",
        f"--data={data}",
        f"--out={picture}",
        "--images=4",
        "--k=2",
    ]
    assert "of 4 samples" in said(neighbours.main, *options, "--rows=3")
    assert Image.open(picture).size == (3 * 32, 3 * 32)
    refused = CliRunner().invoke(neighbours.main, [*options, "--teacher=x"])
    assert refused.exit_code == 2 and "give either --gan or --teacher" in refused.output


def test_the_rate_rises_stays_and_falls_to_zero_in_both_trainings(
    tiny, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [learning_rate(done) for done in (0, 0.01, 0.02, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0])
    shares: list[float] = []
    monkeypatch.setattr(train_gan.Trainer, "set_rate", lambda self, share: shares.append(share))
    monkeypatch.setattr(train_gan.Trainer, "step", lambda self, number: {})
    said(train_gan.main, "emoji32", f"--data={data}", f"--out={tmp_path / 'gan.pt'}", "--batch=4", "--images=400")
    assert shares == [learning_rate(step / 100) for step in range(100)]


def test_set_rate_reaches_both_optimisers(tiny, data: Path) -> None:
    trainer = train_gan.Trainer("emoji32", datasets.load("emoji32", data), 4, 1e-3, 0.1, 100)
    full = [optimizer.param_groups[0]["lr"] for optimizer in (trainer.opt_g, trainer.opt_d)]
    trainer.set_rate(0.25)
    assert [optimizer.param_groups[0]["lr"] for optimizer in (trainer.opt_g, trainer.opt_d)] == pytest.approx(
        [0.25 * rate for rate in full]
    )


def test_neighbours_find_copies() -> None:
    images = torch.randint(0, 256, [20, 3, 8, 8], dtype=torch.uint8, generator=rng())
    distances, index = neighbours.nearest(images[[7, 3]], images, k=2)
    assert index[:, 0].tolist() == [7, 3] and distances[:, 0].tolist() == [0, 0]
    apart = (images[7].float() - images[index[0, 1]].float()).square().mean().sqrt() / 127.5
    assert distances[0, 1] == pytest.approx(float(apart), rel=1e-5)


def test_curves_are_thinned_from_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a warning\n" + "".join(f"{n} images, {n} s, loss 1\n" for n in [*range(1, 101), 99, 100]))
    lines = export.curve(log)
    assert (
        len(lines) <= export.CURVE_LINES
        and lines[-1].startswith("100 images")
        and lines == sorted(lines, key=lambda x: int(x.split()[0]))
    )


def test_what_a_teacher_is_shown_is_labelled(tiny, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels reach the network: its loss depends on them once their weights are not zero."""
    net = train_teacher.EDMPrecond(**train_teacher.network_kwargs("emoji32"))
    torch.nn.init.normal_(net.model.map_augment.weight)
    for parameter in net.requires_grad_(False).parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=rng()))
    dataset = datasets.load("emoji32", data)
    clean, labels = dataset.batch(torch.arange(4)), dataset.labels(torch.arange(4))
    moves = torch.ones(4, augment.NUM_LABELS)
    losses = [float(train_teacher.edm_loss(net, clean, labels, rng(), given)) for given in (None, 0 * moves, moves)]
    assert losses[0] == losses[1] != losses[2]
