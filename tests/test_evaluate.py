"""evaluate() and `gan-refine evaluate`, references of every kind, the cache of teacher samples."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_refine import assets
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.errors import FileFormatError, MismatchError, OptionError
from gan_refine.evaluation import (
    SamplingOptions,
    Teacher,
    check_first_is_distance,
    evaluate,
    images,
    measure,
    measure_teacher,
    open_metrics,
    open_reference,
    references,
)
from gan_refine.evaluation.references import cache_key, teacher_reference
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics import (
    MetricCollection,
    Moments,
    load_detector,
    load_reference,
    open_detector,
    read_images,
    reference_of_images,
    save_reference,
)
from gan_refine.metrics.classifiers import FashionClassifier
from gan_refine.metrics.detectors import ClassifierDetector
from gan_refine.networks.stylegan2 import Generator
from gan_refine.pickles import write_networks
from gan_refine.sampling import sample_images
from gan_refine.teachers import GaussianTeacher, load_edm

SPEC = ImageSpec(1, 16)
SMALL = SamplingOptions(steps=2, images=60)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAN_REFINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def detector() -> ClassifierDetector:
    return ClassifierDetector("fashion16", FashionClassifier(16))


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    path = tmp_path / "teacher.pkl"
    path.write_bytes(b"weights")
    return Teacher(path, GaussianTeacher(0.1, 0.3, SPEC))


def write_images(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


class TestImages:
    pixels = np.random.default_rng(0).integers(0, 256, [12, 16, 16], dtype=np.uint8)

    def test_folder_and_zip_make_the_reference_of_their_images(
        self, detector: ClassifierDetector, tmp_path: Path
    ) -> None:
        folder = write_images(tmp_path / "images", self.pixels)
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"00/{file.name}")
            archive.writestr("dataset.json", "{}")
        moments = Moments(128)
        moments.update(detector(torch.from_numpy(self.pixels)[:, None]))
        for path in (folder, tmp_path / "images.zip"):
            found = open_reference(str(path), detector, None)
            torch.testing.assert_close(found.mean, moments.mean)
            torch.testing.assert_close(found.covariance, moments.covariance(1))
            assert (found.num_images, found.ddof, found.source) == (12, 1, "data")
            assert found.features is not None and len(found.features) == 12

    def test_color(self, tmp_path: Path) -> None:
        count, batches = read_images(write_images(tmp_path / "rgb", np.stack([self.pixels] * 3, axis=-1)))
        assert count == 12 and next(batches).shape == (12, 3, 16, 16)

    def test_bad_images(self, detector: ClassifierDetector, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match="holds no images"):
            reference_of_images(tmp_path, detector)
        folder = write_images(tmp_path / "images", self.pixels)
        Image.fromarray(np.zeros([8, 8], np.uint8)).save(folder / "zz.png")
        with pytest.raises(MismatchError, match=r"is \[1, 8, 8\] but the first image is \[1, 16, 16\]"):
            reference_of_images(folder, detector)
        Image.fromarray(np.zeros([16, 16], np.uint16)).save(folder / "zz.png")
        with pytest.raises(FileFormatError, match="more than 8 bits a channel"):
            reference_of_images(folder, detector)
        (folder / "zz.png").write_text("no image")
        with pytest.raises(FileFormatError, match=r"zz\.png is not a readable image"):
            reference_of_images(folder, detector)
        (tmp_path / "x.zip").write_text("no zip")
        with pytest.raises(FileFormatError, match="folder or zip"):
            reference_of_images(tmp_path / "x.zip", detector)


class TestSamplingOptions:
    def test_is_the_reference_of_the_samplers_images(self, detector: ClassifierDetector, teacher: Teacher) -> None:
        seen: list[int] = []
        first = teacher_reference(teacher, detector, SMALL, seen.append)
        assert sum(seen) == 60
        assert (first.source, first.num_images, first.ddof, first.detector) == ("teacher", 60, 1, "fashion16")
        again = teacher_reference(teacher, detector, SMALL, lambda n: pytest.fail("the cache was not used"))
        assert torch.equal(again.mean, first.mean) and torch.equal(again.covariance, first.covariance)
        assert again.features is not None and first.features is not None and torch.equal(again.features, first.features)
        assert again.source == "teacher"

    def test_key_depends_on_all_that_matters(self, detector: ClassifierDetector, teacher: Teacher) -> None:
        variants = [SMALL, SamplingOptions(3, 60), SamplingOptions(2, 61), SamplingOptions(2, 60, seed=1)]
        keys = {cache_key(teacher, detector, options) for options in variants}
        keys.add(cache_key(teacher, ClassifierDetector("fashion16", FashionClassifier(16)), SMALL))  # other weights
        keys.add(cache_key(teacher, ClassifierDetector("other", detector.network), SMALL))
        teacher.path.write_bytes(b"other weights")
        keys.add(cache_key(teacher, detector, SMALL))
        assert len(keys) == 7

    def test_damaged_cache_is_said_not_mended(
        self, detector: ClassifierDetector, teacher: Teacher, cache: Path
    ) -> None:
        teacher_reference(teacher, detector, SMALL)
        (file,) = (cache / "references").iterdir()
        file.write_text("damaged")
        with pytest.raises(FileFormatError, match="delete this file"):
            teacher_reference(teacher, detector, SMALL)

    def test_options(self, detector: ClassifierDetector, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[SamplingOptions] = []
        made = open_reference("auto", detector, None)
        monkeypatch.setattr(
            references, "teacher_reference", lambda a, b, options, progress: (asked.append(options), made)[1]
        )
        open_reference("teacher,steps=7,images=9", detector, teacher)
        assert asked == [SamplingOptions(steps=7, images=9)]
        with pytest.raises(OptionError, match="needs a teacher"):
            open_reference("teacher", detector, None)
        with pytest.raises(OptionError, match="steps=1 is not allowed"):
            open_reference("teacher,steps=1", detector, teacher)

    def test_parts_of_the_sampler_are_the_whole(self, teacher: Teacher) -> None:
        options = {"steps": 2, "batch": 4}

        def draw(part: tuple[int, int]) -> list[torch.Tensor]:
            rng = torch.Generator().manual_seed(0)
            return [images for images, _ in sample_images(teacher.denoiser, 11, **options, rng=rng, part=part)]

        whole, parts = draw((0, 1)), [draw((rank, 2)) for rank in range(2)]
        assert [len(batch) for batch in whole] == [4, 4, 3]
        for number, batch in enumerate(whole):
            assert torch.equal(batch, parts[number % 2][number // 2])


class TestOpenMetrics:
    def test_spellings(self) -> None:
        for text in ("auto", "fd", "fd-fashion16"):
            assert open_metrics(text, "auto", "auto", SPEC, 250).name == "fd250-fashion16"
        with pytest.raises(OptionError, match="names a detector"):
            open_metrics("fd-fashion16", "fashion16-b", "auto", SPEC, 250)

    def test_who_asks_for_fid_gets_fid_or_an_error(self) -> None:
        with pytest.raises(FileFormatError, match="inception,path=FILE"):
            open_metrics("fid", "auto", "auto", SPEC, 250)

    def test_a_distance_selects_the_best_snapshot(self) -> None:
        with pytest.raises(OptionError, match="the first metric selects the best snapshot"):
            check_first_is_distance(open_metrics("is,fd", "auto", "auto", SPEC, 250))

    def test_reference_is_read_only_where_one_is_needed(self) -> None:
        assert open_metrics("is", "auto", "auto", SPEC, 250).reference is None

    def test_teacher_of_another_size(self, teacher: Teacher) -> None:
        with pytest.raises(MismatchError, match="the GAN makes 32x32 grey images but the teacher 16x16 grey"):
            open_metrics("fd", "auto", "auto", ImageSpec(1, 32), 250, teacher)

    def test_large_images_go_through_the_generator_few_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = AffineGenerator(0.3, 0.1, SPEC)
        shown: list[int] = []
        generator.register_forward_hook(lambda module, inputs, made: shown.append(len(made)))
        metrics = open_metrics("fd", "auto", "auto", SPEC, 300)
        whole = measure(generator, metrics, seed=1)
        assert shown == [250, 50]
        shown.clear()
        monkeypatch.setattr(images, "PIXELS_AT_ONCE", 100 * 16 * 16)
        assert measure(generator, metrics, seed=1)[0].values == pytest.approx(whole[0].values, rel=1e-6)
        assert shown == [100, 100, 50, 50]


class TestEvaluate:
    generator = AffineGenerator(0.3, 0.1, SPEC)
    options = "teacher,steps=18,images=300"

    def test_embedded_reference(self) -> None:
        (result,) = measure(self.generator, open_metrics("fd", "auto", "auto", SPEC, 300), seed=3)
        assert evaluate(self.generator, images=300, seed=3) == {"fd300-fashion16": result.value}
        assert set(evaluate(self.generator, metrics="is", images=20)) == {"is20-fashion16", "is20-fashion16_std"}

    def test_folder_of_images(self, tmp_path: Path) -> None:
        folder = write_images(tmp_path / "images", np.random.default_rng(0).integers(0, 256, [30, 16, 16], np.uint8))
        found = evaluate(self.generator, metrics="pr", reference=folder, images=20)
        assert set(found) == {"pr20-fashion16_precision", "pr20-fashion16_recall"}

    def test_samples_of_a_teacher(self, teacher: Teacher, cache: Path) -> None:
        bare = evaluate(self.generator, reference=self.options, teacher=teacher.denoiser, images=300)
        assert not cache.exists(), "a denoiser without its file has no key in the cache"
        cached = evaluate(self.generator, reference=self.options, teacher=teacher, images=300)
        assert len(list((cache / "references").iterdir())) == 1
        assert bare == cached and set(bare) == {"fd300-fashion16-teacher"}
        other = evaluate(AffineGenerator(0.1, 0.4, SPEC), reference=self.options, teacher=teacher, images=300)
        assert 10 * bare["fd300-fashion16-teacher"] < other["fd300-fashion16-teacher"], "not the teacher's distribution"

    def test_teacher_by_name(self, cache: Path) -> None:
        found = evaluate(self.generator, reference="teacher,steps=2,images=20", teacher="fashion16", images=20)
        assert set(found) == {"fd20-fashion16-teacher"} and len(list((cache / "references").iterdir())) == 1

    def test_mistakes(self, teacher: Teacher) -> None:
        with pytest.raises(OptionError, match="seed=-1"):
            evaluate(self.generator, seed=-1)
        with pytest.raises(OptionError, match="has no use with reference=auto"):
            evaluate(self.generator, teacher=teacher)
        with pytest.raises(OptionError, match="needs a teacher"):
            evaluate(self.generator, reference="teacher")
        with pytest.raises(MismatchError, match="at least 2 images"):
            evaluate(self.generator, images=1)
        with pytest.raises(MismatchError, match="the GAN makes 32x32 grey images but the teacher 16x16 grey"):
            evaluate(AffineGenerator(0.3, 0.1, ImageSpec(1, 32)), reference="teacher", teacher=teacher)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gan_refine", "evaluate", *arguments])
    return run_command(cli)


class TestCommand:
    def test_two_generators(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        copy = tmp_path / "copy.pkl"
        copy.write_bytes(assets.resolve("gan", "fashion16").read_bytes())
        arguments = [
            "--gan=fashion16",
            f"--gan={copy}",
            "--images=40",
            "--fid-seeds=2",
            "--device=cpu",
            "--metrics=fd,is",
        ]
        assert command(monkeypatch, *arguments, f"--outdir={tmp_path / 'out'}") == 0
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert [(line["metric"], line["seed"], line["snapshot"]) for line in lines[:3]] == [
            ("fd40-fashion16", 0, "fashion16"),
            ("is40-fashion16", 0, "fashion16"),
            ("fd40-fashion16", 0, "copy"),
        ]
        assert {"results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp"} <= set(
            lines[0]
        )
        assert lines[0]["convention"] == {"ddof": 1, "reference_ddof": 1}
        assert lines[0]["results"] == lines[2]["results"], "the same latents for both"
        assert lines[0]["results"] != lines[4]["results"], "other latents with another seed"
        assert "no significant change: +0.000" in captured.err
        files = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").iterdir()}
        assert {name: len(found) for name, found in files.items()} == {
            "metric-fd40-fashion16.jsonl": 4,
            "metric-is40-fashion16.jsonl": 4,
        }

    def test_the_teacher_beside_generators(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        copy = tmp_path / "copy.pkl"
        copy.write_bytes(assets.resolve("gan", "fashion16").read_bytes())
        teacher = assets.resolve("teacher", "fashion16")
        arguments = [f"--teacher={teacher}", "--teacher-steps=4", "--images=300", "--metrics=fd,is", "--device=cpu"]
        assert command(monkeypatch, "--gan=fashion16", f"--gan={copy}", *arguments) == 0
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert [line["snapshot"] for line in lines[::2]] == ["fashion16", "copy", f"{teacher} in 4 steps"]
        assert lines[4]["snapshot_pkl"] == str(teacher)
        net = load_edm(assets.resolve("teacher", "fashion16"))
        detector = load_detector(assets.resolve("detector", "fashion16"))
        reference = load_reference(assets.resolve("reference", "fashion16"))
        own = measure_teacher(Teacher(None, net), MetricCollection(detector, reference, 300), 4, 0)[0].value
        assert lines[4]["results"]["fd300-fashion16"] == pytest.approx(own, rel=1e-5)
        assert captured.err.count("gap ") == 1, "of the distance, not of the score, and not of the first"
        told = "gap closed 0.0%" if own < lines[0]["results"]["fd300-fashion16"] else "no gap to close"
        assert f"{copy}: {told}" in captured.err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--fid-ref=teacher"], "needs a teacher"),
            (["--images=1"], "--images=1 is not allowed"),
            (["--seed=-1"], "--seed=-1 is not allowed"),
            (["--gan=fashion16"], "given the same name twice"),
            (["--gan={large}"], "large.pkl 32x32 grey"),
            (["--teacher=fashion16"], "has no use without --fid-ref=teacher"),
            (["--teacher-steps=2"], "--teacher-steps=2 measures a teacher"),
            (["--teacher=fashion16", "--teacher-steps=1"], "--teacher-steps=1 is not allowed"),
            (["--outdir={pickled}"], "cannot write to --outdir="),
            (["--fid-seeds=0"], "--fid-seeds=0"),
            (["--metrics=fud"], "unknown metric"),
            (["--detector=inception,path=nowhere"], "is not a file"),
            (["--fid-ref=nowhere.npz"], "nowhere.npz"),
            (["--device=tpu9"], "--device=tpu9"),
            (["--fid-ref={pickled}"], "without pickles"),
            (["--fid-ref={other}"], "made with detector other"),
            (["--images=20", "--metrics=kd"], "only mean and covariance"),
            (["--images=9", "--metrics=is"], "at least 10 images"),
        ],
    )
    def test_bad_input(
        self,
        arguments: list,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
    ) -> None:
        np.savez(tmp_path / "pickled.npz", mu=np.array([print, 1], dtype=object), sigma=np.eye(2))
        np.savez(tmp_path / "other.npz", mu=np.zeros(128), sigma=np.eye(128), detector="other")
        places = {name: str(tmp_path / f"{name}.npz") for name in ("pickled", "other")}
        places["large"] = str(tmp_path / "large.pkl")
        tiny = Generator(4, 0, 4, 32, 1, mapping_kwargs={"num_layers": 1}, synthesis_kwargs={"channel_max": 4})
        write_networks(tmp_path / "large.pkl", {"G_ema": tiny})
        given = [argument.format(**places) for argument in arguments]
        assert command(monkeypatch, "--gan=fashion16", "--device=cpu", *given) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err.strip().splitlines()[-1]


def test_features_and_source_survive_the_file(tmp_path: Path, detector: ClassifierDetector, teacher: Teacher) -> None:
    made = teacher_reference(teacher, detector, SMALL)
    save_reference(tmp_path / "r.npz", made)
    found = load_reference(tmp_path / "r.npz")
    assert found.source == "teacher" and found.features is not None and torch.equal(found.features, made.features)
    np.savez(tmp_path / "bad.npz", mu=np.zeros(3), sigma=np.eye(3), features=np.zeros([5, 4]))
    with pytest.raises(FileFormatError, match=r"finite ones \[m, 3\]"):
        load_reference(tmp_path / "bad.npz")
    assert open_detector("fashion16").digest() == open_detector("fashion16").digest()
