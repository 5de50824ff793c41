"""evaluate() and `gan-refine evaluate`, references of every kind, the cache of teacher samples."""

import json
import sys
import warnings
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import SingleImage

from gan_refine import assets
from gan_refine.cli import cli
from gan_refine.cli.main import run_command
from gan_refine.config import LEARNING_SAMPLES
from gan_refine.errors import FileFormatError, MismatchError, OptionError, UserNotice
from gan_refine.evaluation import (
    FLOOR,
    NUM_IMAGES,
    Measured,
    SamplingOptions,
    Teacher,
    YardstickOptions,
    Yardsticks,
    are_cached,
    cached_images,
    evaluate,
    images,
    open_yardsticks,
    samples,
    tabulate,
    teacher_samples,
    verdict,
)
from gan_refine.evaluation.images import teacher_images
from gan_refine.evaluation.samples import cache_key
from gan_refine.evaluation.statistics import interval
from gan_refine.evaluation.table import Row, Table
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec, SampleRequest
from gan_refine.metrics import (
    FeatureStatistics,
    Moments,
    Requirements,
    load_reference,
    only_reports,
    read_images,
    reference_of,
    reference_of_images,
    save_reference,
)
from gan_refine.metrics.classifiers import FashionClassifier
from gan_refine.metrics.detectors import ClassifierDetector
from gan_refine.metrics.tables import ONLY_REPORT
from gan_refine.networks.stylegan2 import Generator
from gan_refine.objectives import build_objective
from gan_refine.pickles import write_networks
from gan_refine.run.build import build, learning_samples
from gan_refine.run.options import RunOptions
from gan_refine.sampling import DEFAULT_STEPS, sample_images
from gan_refine.teachers import GaussianTeacher, load_edm

ROOT = Path(__file__).parent.parent
SPEC = ImageSpec(1, 16)
SMALL = SamplingOptions(images=60, steps=2)


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
            found = reference_of_images(path, detector)
            torch.testing.assert_close(found.mean, moments.mean)
            torch.testing.assert_close(found.covariance, moments.covariance(1))
            assert (found.num_images, found.ddof, found.source) == (12, 1, "data")
            assert found.features is not None and len(found.features) == 12

    def test_color(self, tmp_path: Path) -> None:
        count, batches = read_images(write_images(tmp_path / "rgb", np.stack([self.pixels] * 3, axis=-1)))
        assert len(count) == 12 and next(batches).shape == (12, 3, 16, 16)

    def test_bad_images(self, detector: ClassifierDetector, tmp_path: Path) -> None:
        with pytest.raises(FileFormatError, match="is empty; give a folder or zip of images"):
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


class TestSamples:
    def test_two_disjoint_sets_from_the_sampler_and_then_from_the_cache(self, teacher: Teacher, cache: Path) -> None:
        seen: list[int] = []
        made = teacher_samples(teacher, SMALL, seen.append)
        assert sum(seen) == 120 and len(list((cache / "samples").iterdir())) == 1
        drawn = torch.cat([part for _, part in teacher_images(teacher.denoiser, 120, 2, SMALL.seed)])
        assert torch.equal(torch.cat([made.reference, made.others]), drawn)
        again = teacher_samples(teacher, SMALL, lambda n: pytest.fail("the cache was not used"))
        assert torch.equal(again.reference, made.reference) and torch.equal(again.others, made.others)

    def test_key_depends_on_all_that_matters(self, teacher: Teacher) -> None:
        variants = [SMALL, SamplingOptions(60, 3), SamplingOptions(61, 2), SamplingOptions(60, 2, seed=1)]
        keys = {cache_key(teacher, options) for options in variants}
        assert teacher.path is not None
        teacher.path.write_bytes(b"other weights")
        assert len(keys | {cache_key(teacher, SMALL)}) == 5

    def test_the_first_of_more_samples_are_those_of_fewer(
        self, teacher: Teacher, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fewer = replace(SMALL, images=25)
        fresh = teacher_samples(replace(teacher, path=None), fewer)
        monkeypatch.setattr(samples, "USUAL", (SMALL.images,))
        assert not are_cached(teacher, fewer) and cached_images(teacher, fewer) == 0
        teacher_samples(teacher, SMALL)
        assert are_cached(teacher, fewer) and cached_images(teacher, fewer) == SMALL.images
        found = teacher_samples(teacher, fewer)
        assert torch.equal(found.reference, fresh.reference) and torch.equal(found.others, fresh.others)
        assert len(list((cache / "samples").iterdir())) == 1, "and are not made"
        assert not are_cached(teacher, replace(SMALL, images=61))

    @pytest.mark.parametrize("content", [b"damaged", b"images of another size"])
    def test_a_damaged_file_is_said_not_mended(self, content: bytes, teacher: Teacher, cache: Path) -> None:
        teacher_samples(teacher, SMALL)
        (file,) = (cache / "samples").iterdir()
        file.write_bytes(content)
        if content != b"damaged":
            np.savez(file, images=np.zeros([120, 1, 8, 8], np.uint8))
        with pytest.raises(FileFormatError, match="delete it and run again"):
            teacher_samples(teacher, SMALL)

    @pytest.mark.parametrize(
        "number, total, images",
        [
            (None, 0, 2048),
            (None, 300, 2048),
            (None, 2000, 8000),
            (None, 4096, 16_384),
            (None, 16_384, 16_384),
            (None, 40_961, 20_480),
            (None, 10**6, 32_768),
            (65, 10**6, 66),
        ],
    )
    def test_a_longer_run_learns_from_more(self, number: int | None, total: int, images: int) -> None:
        assert 2 * learning_samples(SampleRequest(number, 18, 0), total).images == images

    def test_samples_that_come_with_the_project_are_those_of_its_teachers(self) -> None:
        found = sorted(assets.PRETRAINED.glob("*-samples-*.npz"))
        for name in {path.name.partition("-samples-")[0] for path in found}:
            file = assets.resolve("teacher", name)
            teacher = Teacher(file, load_edm(file))
            learned = learning_samples(build_objective("di-gan", teacher.denoiser).wanted_samples, LEARNING_SAMPLES)
            keys = {cache_key(teacher, each) for each in (SamplingOptions(NUM_IMAGES, DEFAULT_STEPS), learned)}
            kept = {path.stem.rpartition("-")[2] for path in found if path.name.startswith(f"{name}-samples-")}
            assert kept == keys, "recipes/export.py samples makes the files again"

    def test_parts_of_the_sampler_are_the_whole(self, teacher: Teacher) -> None:
        options = {"steps": 2, "batch": 4}

        def draw(part: tuple[int, int]) -> list[torch.Tensor]:
            rng = torch.Generator().manual_seed(0)
            return [images for images, _ in sample_images(teacher.denoiser, 11, **options, rng=rng, part=part)]

        whole, parts = draw((0, 1)), [draw((rank, 2)) for rank in range(2)]
        assert [len(batch) for batch in whole] == [4, 4, 3]
        for number, batch in enumerate(whole):
            assert torch.equal(batch, parts[number % 2][number // 2])


def opened(teacher: Teacher | None = None, spec: ImageSpec = SPEC, **options) -> Yardsticks:
    detectors = options.pop("detectors", ("fashion16",))
    return open_yardsticks(
        YardstickOptions(detectors=detectors, num_images=60, teacher_steps=2, **options), spec, teacher
    )


class TestYardsticks:
    def test_the_teacher_ranks_and_the_data_stand_beside_it(self, teacher: Teacher) -> None:
        found = opened(teacher, detectors=("auto", "fashion16-b")).for_table()
        assert [each.detector.name for each in found.all] == ["fashion16", "pixels", "fashion16-b"]
        assert found.name == "fd60-fashion16-teacher"
        names = [result.metric for result in found.floor]
        assert names == [
            *("fd60-fashion16-teacher", "nn60-fashion16-teacher", "fd60-fashion16"),
            *("fd60-pixels-teacher", "nn60-pixels-teacher"),
            *("fd60-fashion16-b-teacher", "nn60-fashion16-b-teacher", "fd60-fashion16-b"),
        ]

    def test_one_pass_of_the_generator_feeds_all(self, teacher: Teacher) -> None:
        generator = AffineGenerator(0.3, 0.1, SPEC)
        shown: list[int] = []
        generator.register_forward_hook(lambda module, inputs, made: shown.append(len(made)))
        together = opened(teacher, detectors=("fashion16", "pixels")).measure(generator, seed=3)
        assert shown == [60]
        alone = [opened(teacher, detectors=(name,)).measure(generator, seed=3) for name in ("fashion16", "pixels")]
        assert together == [result for results in alone for result in results]

    def test_features_of_the_teachers_samples_wait_until_a_detector_is_used(self, teacher: Teacher) -> None:
        found = opened(teacher, detectors=("fashion16", "pixels"))
        found.first().measure(AffineGenerator(0.3, 0.1, SPEC), seed=0)
        assert ["references" in vars(each) for each in found.all] == [True, False]

    def test_an_equal_generator_is_at_the_floor_and_one_image_covers_nothing(self, teacher: Teacher) -> None:
        options = YardstickOptions(detectors=("pixels",), num_images=400, teacher_steps=18)
        yardsticks = open_yardsticks(options, SPEC, teacher).for_table()
        equal, lost = AffineGenerator(0.3, 0.1, SPEC), SingleImage(torch.full([1, 1, 16, 16], 0.1))
        runs = [
            Measured(name, s, yardsticks.measure(net, s))
            for s in (0, 1)
            for name, net in (("lost", lost), ("equal", equal))
        ]
        (table,) = tabulate(yardsticks, runs)
        assert [row.name for row in table.rows] == [FLOOR, "lost", "equal"]
        metric = "fd400-pixels-teacher"
        assert table.rows[2].shares[metric].mean == pytest.approx(1, abs=0.1)
        assert table.rows[1].values["nn400-pixels-teacher_recall"] == [0, 0]
        told = verdict([table], "equal", "It")
        assert told.startswith(
            f"It is nearer to the teacher, {table.rows[2].shares[metric]} of the way (95 % confidence "
        )
        assert f" interval over 2 sets of latents; {metric} " in told
        assert "farther away" not in verdict([table, table], "equal", "It")
        share = interval([-0.5, -0.4, -0.6])
        farther = replace(table.rows[2], shares={metric: share})
        other = replace(table, detector="other", rows=[*table.rows[:2], farther])
        assert verdict([table, other], "equal", "It").endswith(f" It is farther away in other ({share}).")
        unclear = replace(table, rows=[*table.rows[:2], replace(farther, shares={metric: interval([0.5, -0.4, 0.1])})])
        assert verdict([unclear, table, other], "equal", "It").endswith(
            f" It is nearer in pixels ({table.rows[2].shares[metric]}). It is farther away in other ({share})."
        )
        assert "nearer in" not in verdict([table, table], "equal", "It"), "the first is clear"
        text = table.lines()
        assert text[0] == "pixels (may choose settings)" and text[1].split()[:3] == ["fd", "teacher", "share"]
        assert [" - " in line for line in text[2:5]] == [True, True, False], "floor and first network have no share"
        assert table.notes() == [] and table.record()["notes"] == []
        assert table.better[metric] == "lower" and table.better["nn400-pixels-teacher_recall"] == "higher"
        assert "nn400-pixels-teacher_distance" not in table.better
        json.dumps(table.record())

    def test_a_missing_share_is_a_dash_with_its_reason(self) -> None:
        rows = [
            Row(FLOOR, {"fd": [2.0]}, {}),
            Row("a", {"fd": [3.0, 1.5]}, {}),
            Row("b", {"fd": [1.0, 1.0]}, {"fd": None}),
        ]
        table = Table("x", "y", [("fd", "fd teacher")], rows, {"fd": "lower"})
        lines = table.lines()
        assert [line.split()[-1] for line in lines[1:5]] == ["share", "-", "-", "-"]
        reason = "with 1 of 2 sets of latents a is as near as other teacher samples, so there is no way to go."
        assert lines[5:] == [f"  No share of fd teacher: {reason}"]
        assert verdict([table], "b", "It").startswith("It had no way to go, as the original is as near to the teacher")
        for after, farther in (
            ([4.0, 2.5], True),
            ([4.0, 1.0], False),
            ([2.0, 0.5], False),
        ):  # by 1, 1; 1, -0.5; -1, -1
            grown = replace(table, detector="other", rows=[*rows[:2], Row("b", {"fd": after}, {"fd": None})])
            told = f" It is farther away in other ({grown.rows[1].cell('fd')} -> {grown.rows[2].cell('fd')})."
            assert verdict([table, grown], "b", "It").endswith(told) == farther
        without = replace(table, rows=rows[1:])
        assert without.notes() == [
            "No share of fd teacher without a floor, for which --teacher and --teacher-steps are needed."
        ]
        assert verdict([without], "b", "It").startswith("It changes fd by -1.250, which is not significant (95 %")
        score = replace(table, rows=[rows[0], rows[1], replace(rows[2], shares={})], better={"fd": "higher"})
        assert score.notes() == [] and verdict([score], "b", "It").startswith("It changes fd by -1.250")

    def test_large_images_go_through_the_generator_few_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = AffineGenerator(0.3, 0.1, SPEC)
        shown: list[int] = []
        generator.register_forward_hook(lambda module, inputs, made: shown.append(len(made)))
        yardsticks = open_yardsticks(YardstickOptions(detectors=("fashion16",), num_images=300), SPEC)
        whole = yardsticks.measure(generator, seed=1)
        assert shown == [250, 50]
        shown.clear()
        monkeypatch.setattr(images, "PIXELS_AT_ONCE", 100 * 16 * 16)
        assert yardsticks.measure(generator, seed=1)[0].values == pytest.approx(whole[0].values, rel=1e-6)
        assert shown == [100, 100, 50, 50]

    def test_too_few_images_are_told_in_python_too(self) -> None:
        with pytest.warns(
            UserNotice, match=r"^images=200 is few for fd in the 128 features of fashion16: .* give images=256$"
        ):
            evaluate(AffineGenerator(0.3, 0.1, SPEC), detector="fashion16", images=200)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            evaluate(AffineGenerator(0.3, 0.1, SPEC), detector="fashion16", images=256)

    def test_metrics_that_need_no_reference_are_measured_once(self, teacher: Teacher) -> None:
        found = opened(teacher, metrics="fd,is").measure(AffineGenerator(0.3, 0.1, SPEC), seed=0)
        assert [result.metric for result in found] == ["fd60-fashion16-teacher", "is60-fashion16", "fd60-fashion16"]

    def test_who_asks_for_fid_gets_fid_or_an_error(self) -> None:
        with pytest.raises(FileFormatError, match="inception,path=FILE"):
            opened(metrics="fid", detectors=("auto",))

    def test_mistakes(self, teacher: Teacher, tmp_path: Path) -> None:
        with pytest.raises(MismatchError, match="the GAN makes 32x32 grey images but the teacher 16x16 grey"):
            opened(teacher, ImageSpec(1, 32))
        with pytest.raises(OptionError, match="nothing to measure against for detector pixels"):
            opened(None, detectors=("pixels",))
        with pytest.raises(OptionError, match="nothing to measure against; give a teacher"):
            opened(None, ImageSpec(3, 32), detectors=("auto",))
        with pytest.raises(OptionError, match="--fid-ref is for data"):
            opened(teacher, fid_ref="teacher")
        with pytest.raises(MismatchError, match="made with detector other"):
            np.savez(tmp_path / "other.npz", mu=np.zeros(128), sigma=np.eye(128), detector="other")
            opened(fid_ref=str(tmp_path / "other.npz"))


class TestEvaluate:
    generator = AffineGenerator(0.3, 0.1, SPEC)

    def test_folder_of_images(self, tmp_path: Path) -> None:
        folder = write_images(tmp_path / "images", np.random.default_rng(0).integers(0, 256, [30, 16, 16], np.uint8))
        found = evaluate(self.generator, metrics="pr", reference=folder, images=20)
        kinds = [f"pr20-{name}_{kind}" for name in ("fashion16", "pixels") for kind in ("precision", "recall")]
        assert list(found) == kinds

    def test_samples_of_a_teacher(self, teacher: Teacher, cache: Path) -> None:
        options = {"detector": "fashion16", "images": 300}
        bare = evaluate(self.generator, teacher=teacher.denoiser, **options)
        assert not cache.exists(), "a denoiser without its file has no key in the cache"
        cached = evaluate(self.generator, teacher=teacher, **options)
        assert len(list((cache / "samples").iterdir())) == 1
        assert bare == cached and list(bare) == ["fd300-fashion16-teacher", "fd300-fashion16"]
        other = evaluate(AffineGenerator(0.1, 0.4, SPEC), teacher=teacher, **options)
        assert 10 * bare["fd300-fashion16-teacher"] < other["fd300-fashion16-teacher"], "not the teacher's distribution"

    def test_teacher_by_name(self, cache: Path) -> None:
        found = evaluate(self.generator, teacher="fashion16", teacher_steps=2, images=20)
        assert list(found) == [
            f"fd20-{name}" for name in ("fashion16-teacher", "fashion16", "teacher-teacher", "pixels-teacher")
        ]

    def test_mistakes(self) -> None:
        with pytest.raises(OptionError, match="seed=-1"):
            evaluate(self.generator, seed=-1)
        with pytest.raises(OptionError, match="images=1"):
            evaluate(self.generator, images=1)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gan_refine", "evaluate", *arguments])
    return run_command(cli)


class TestCommand:
    def test_generators_and_baselines_against_data(
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
        arguments += ["--detector=fashion16", "--baselines", f"--outdir={tmp_path / 'out'}"]
        assert command(monkeypatch, *arguments) == 0
        captured = capsys.readouterr()
        *lines, table = [json.loads(line) for line in captured.out.splitlines()]
        names = ["fashion16", "copy", "fashion16, flat", "fashion16, psi1.05", "fashion16, psi0.9"]
        assert [line["snapshot"] for line in lines] == 2 * [name for name in names for _ in range(2)]
        assert [line["metric"] for line in lines[:2]] == ["fd40-fashion16", "is40-fashion16"]
        fields = {"results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl", "timestamp"}
        assert fields <= set(lines[0])
        assert lines[0]["convention"] == {"ddof": 1, "reference_ddof": 1}
        assert lines[0]["results"] == lines[2]["results"], "the same latents for both"
        assert lines[0]["results"] != lines[10]["results"], "other latents with another seed"
        assert f"\n{copy} changes fd40-fashion16 by +0.000, which is not significant (95 %" in captured.err
        assert [row["name"] for row in table["table"][0]["rows"]] == ["fashion16", str(copy), *names[2:]]
        assert json.loads((tmp_path / "out" / "table.json").read_text()) == table
        files = {path.name: path.read_text().splitlines() for path in (tmp_path / "out").glob("*.jsonl")}
        assert {name: len(found) for name, found in files.items()} == {
            "metric-fd40-fashion16.jsonl": 10,
            "metric-is40-fashion16.jsonl": 10,
        }

    def test_against_a_teacher_with_all_figures(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        arguments = ["--gan=fashion16", "--teacher=fashion16", "--teacher-steps=2", "--images=40", "--fid-seeds=1"]
        assert command(monkeypatch, *arguments, "--detector=auto", "--detector=fashion16-b", "--device=cpu") == 0
        captured = capsys.readouterr()
        for title in (
            "fashion16 (chose the default settings)",
            "teacher (may choose settings)",
            "fashion16-b (only reports)",
        ):
            assert title in captured.err.splitlines()
        headings = next(line for line in captured.err.splitlines() if "fd teacher" in line).split()
        assert headings == ["fd", "teacher", "recall", "precision", "coverage", "distance", "fd", "data"]
        assert captured.err.count(FLOOR) == 4

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--images=1"], "--images=1 is not allowed"),
            (["--seed=-1"], "--seed=-1 is not allowed"),
            (["--gan=fashion16"], "given the same name twice"),
            (["--gan={large}"], "large.pkl 32x32 grey"),
            (["--bridge=resize"], "--bridge=resize resizes to the size of a teacher; give --teacher"),
            (["--bridge=resize,measure=full"], "as evaluate does without it; leave it out"),
            (["--teacher=fashion16", "--bridge=resize"], "--bridge=resize needs a GAN whose images are 2, 4, 8"),
            (["--teacher=fashion16", "--teacher-steps=1"], "--teacher-steps=1 is not allowed"),
            (["--outdir={pickled}"], "cannot write to --outdir="),
            (["--fid-seeds=0"], "--fid-seeds=0"),
            (["--metrics=fud"], "unknown metric"),
            (["--fid-ref=teacher"], "--fid-ref is for data"),
            (["--detector=teacher"], "needs a teacher"),
            (["--detector=pixels", "--detector=pixels"], "names a detector twice"),
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


def test_the_way_out_for_a_teacher_of_another_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    for resolution, proposed in ((32, True), (8, False)):
        path = tmp_path / f"{resolution}.pkl"
        tiny = Generator(4, 0, 4, resolution, 1, mapping_kwargs={"num_layers": 1}, synthesis_kwargs={"channel_max": 4})
        write_networks(path, {"G_ema": tiny})
        assert command(monkeypatch, f"--gan={path}", "--teacher=fashion16", "--device=cpu") == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert error.startswith(
            f"error: the GAN makes {resolution}x{resolution} grey images but the teacher 16x16 grey"
        )
        assert error.endswith("--bridge=resize") == proposed


def test_features_and_source_survive_the_file(tmp_path: Path, detector: ClassifierDetector) -> None:
    pixels = torch.randint(0, 256, [60, 1, 16, 16], dtype=torch.uint8)
    kept = FeatureStatistics(detector, 60, Requirements(sample=True))
    kept.update(detector.outputs(pixels), 0)
    made = reference_of(kept, source="teacher")
    save_reference(tmp_path / "r.npz", made)
    found = load_reference(tmp_path / "r.npz")
    assert found.features is not None and made.features is not None
    assert found.source == "teacher" and torch.equal(found.features, made.features)
    np.savez(tmp_path / "bad.npz", mu=np.zeros(3), sigma=np.eye(3), features=np.zeros([5, 4]))
    with pytest.raises(FileFormatError, match=r"has features \[5, 4\]; \[m, 3\] are needed"):
        load_reference(tmp_path / "bad.npz")


def test_no_default_and_no_recipe_reads_a_detector_that_only_reports() -> None:
    """The defaults of runs and sweeps leave them out, a run refuses to select by one, and no recipe but their maker names them."""
    for only_reporting in ONLY_REPORT:
        assert only_reporting not in json.dumps(asdict(RunOptions())) + json.dumps(asdict(YardstickOptions()))
        names = [path.name for path in (ROOT / "recipes").glob("*.py") if f'"{only_reporting}' in path.read_text()]
        assert set(names) <= {"train_detector.py", "export.py"}
    assert not any(only_reports(each.detector.name) for each in opened(None, detectors=("auto",)).all)
    with pytest.raises(OptionError, match="fashion16-b only reports, and the first one selects"):
        build(RunOptions(detector=("fashion16-b", "fashion16"), teacher_steps=0))
    with pytest.raises(OptionError, match="the first metric selects the best snapshot"):
        build(RunOptions(metrics="is,fd", detector=("fashion16",), teacher_steps=0))
