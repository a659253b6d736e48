"""`+exp=dataset_export`: a tiny set as files, read back by the readers of those layouts."""

import csv
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from refusals import refuses
from released_sets import annotate, as_format, conditions, filtered, pictures
from synthetic_sets import write_set

from datamodules.field_of_view import NotAFundusError, detect_field_of_view
from datamodules.findings import NAMES
from datamodules.images import read_image, square_crop, whole_frame
from datamodules.sources.csv import CsvSource
from datamodules.sources.synfundus1m import SynFundus1M
from experiments import dataset_export as job
from experiments.composition import compose_config
from experiments.export import pictures as writing
from experiments.export.layouts import LAYOUTS
from experiments.session import Run

SIDE = 48


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Twelve phantoms in three shards; `is_pm` is known of none."""
    return write_set(tmp_path / "set", side=SIDE, unknown=["is_pm"])


@cache
def configuration() -> DictConfig:
    return compose_config(["+exp=dataset_export", "job.dataset=x"])


def export(dataset: Path, out: Path, *words: str) -> dict[str, float]:
    given = OmegaConf.from_dotlist([f"job.dataset={dataset}", f"output_dir={out}", *words])
    return job.dataset_export(Run(OmegaConf.merge(configuration(), given)))


def cropped(rgb: np.ndarray) -> np.ndarray:
    """What a reader makes of an image that is a fundus, or is none."""
    try:
        return square_crop(rgb, detect_field_of_view(rgb), SIDE)
    except NotAFundusError:
        return whole_frame(rgb, SIDE)


def labels(levels: dict[str, list[int | None]]) -> np.ndarray:
    return np.array([[-1 if level is None else level for level in levels[name]] for name in NAMES]).T


# -- SynFundus-1M's layout


def test_synfundus_layout_is_read_back_by_its_reader_bit_for_bit(dataset, tmp_path):
    seen = annotate(dataset, untold=["is_em", "eye_side", "dr_grade"])
    out = tmp_path / "out"
    assert export(dataset, out, "job.format=synfundus1m") == {"export/num_written": 12, "export/num_there": 0}
    told = conditions(dataset)
    assert (told[:, NAMES.index("is_pm")] == -1).all()
    for which, wanted in (("condition", told), ("annotation", labels(seen))):
        source = SynFundus1M(out, labels=which)
        manifest = source.index()
        assert list(manifest.paths) == [f"Part0/{i}.png" for i in range(12)]
        np.testing.assert_array_equal(manifest.labels, wanted)
        for path, pixels in zip(manifest.paths, pictures(dataset), strict=True):
            assert (out / path).read_bytes() == pixels
            original = read_image(io.BytesIO(pixels))
            np.testing.assert_array_equal(source.read(path, SIDE), cropped(original))


def test_synfundus_tables_have_its_columns_and_codings(dataset, tmp_path):
    annotate(dataset, untold=["is_em"])
    export(dataset, tmp_path / "out", "job.format=synfundus1m")
    for name, blank in (("gen_cond", "is_pm"), ("annotation", "is_em")):
        with open(tmp_path / "out" / f"SynFundus-1M_{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["idx", *NAMES]
        assert [row["idx"] for row in rows] == [str(i) for i in range(12)]
        assert {row[blank] for row in rows} == {""}
        assert {row["eye_side"] for row in rows} == {"0", "1"} and {row["dr_grade"] for row in rows} <= set("01234")


def test_without_annotations_there_is_no_table_of_them(dataset, tmp_path):
    export(dataset, tmp_path / "out", "job.format=synfundus1m")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.csv")) == ["SynFundus-1M_gen_cond.csv"]


@pytest.mark.parametrize(
    ("index", "part"), [(0, 0), (49_999, 0), (50_000, 1), (949_999, 18), (950_000, 19), (1_000_003, 19), (10**7, 19)]
)
def test_parts_of_synfundus_have_50000_images_and_the_last_has_the_rest(index, part):
    assert LAYOUTS["synfundus1m"].place(index, "x") == f"Part{part}/{index}"


def test_webp_becomes_png_of_the_same_pixels(dataset, tmp_path):
    as_format(dataset, "webp")
    export(dataset, tmp_path / "out", "job.format=synfundus1m")
    for number, pixels in enumerate(pictures(dataset)):
        path = tmp_path / "out" / "Part0" / f"{number}.png"
        assert pixels[8:12] == b"WEBP" and Image.open(path).format == "PNG"
        np.testing.assert_array_equal(read_image(path), read_image(io.BytesIO(pixels)))


def test_jpeg_keeps_its_bytes_and_is_found_by_the_reader(dataset, tmp_path):
    as_format(dataset, "jpeg")
    export(dataset, tmp_path / "out", "job.format=synfundus1m")
    manifest = SynFundus1M(tmp_path / "out", labels="condition").index()
    assert list(manifest.paths) == [f"Part0/{i}.jpg" for i in range(12)]
    assert [(tmp_path / "out" / path).read_bytes() for path in manifest.paths] == pictures(dataset)


# -- a plain folder


@pytest.mark.parametrize(("format", "ending"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
def test_folder_is_read_back_as_a_table_of_ones_own(dataset, tmp_path, format, ending):
    as_format(dataset, format)
    seen = annotate(dataset)
    out = tmp_path / "out"
    export(dataset, out)
    ids = [name for shard in sorted((dataset / "data").glob("*")) for name in pq.read_table(shard)["id"].to_pylist()]
    for table, wanted in (("labels.csv", conditions(dataset)), ("annotations.csv", labels(seen))):
        manifest = CsvSource(out, table).index()
        assert manifest.table.column("id").to_pylist() == ids
        assert list(manifest.paths) == [f"images/00000/{name}.{ending}" for name in ids]
        np.testing.assert_array_equal(manifest.labels, wanted)
        assert [(out / path).read_bytes() for path in manifest.paths] == pictures(dataset)


def test_folder_has_ten_thousand_images_a_folder():
    places = [LAYOUTS["folder"].place(index, "a") for index in (9_999, 10_000, 1_234_567)]
    assert places == ["images/00000/a", "images/00001/a", "images/00123/a"]


# -- stopping, going on


def test_going_on_writes_what_is_missing_or_cut_off_and_nothing_else(dataset, tmp_path, monkeypatch):
    out, resume = tmp_path / "out", ["job.format=synfundus1m", "resume=auto"]
    original, written = writing.write_picture, []

    def stop_after_seven(path, *others, **more):
        if len(written) == 7:
            raise KeyboardInterrupt
        original(path, *others, **more)
        written.append(path)

    monkeypatch.setattr(writing, "write_picture", stop_after_seven)
    with pytest.raises(KeyboardInterrupt):
        export(dataset, out, "job.format=synfundus1m", "job.num_workers=1")
    assert json.loads((out / "record.json").read_text())["status"] == "interrupted"
    assert not list(out.glob("*.csv"))
    monkeypatch.setattr(writing, "write_picture", original)
    cut, left = written[2], out / "Part0" / ".9.123.part.png"
    cut.write_bytes(cut.read_bytes()[:-5])
    left.write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in written if path != cut}
    assert export(dataset, out, *resume) == {"export/num_written": 6, "export/num_there": 6}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not left.exists()
    assert [(out / "Part0" / f"{i}.png").read_bytes() for i in range(12)] == pictures(dataset)


def test_what_is_all_there_is_not_read_again(dataset, tmp_path, monkeypatch):
    export(dataset, tmp_path / "out")
    monkeypatch.setattr(writing, "_pixels", lambda *_: pytest.fail("images are read"))
    assert export(dataset, tmp_path / "out", "resume=auto")["export/num_there"] == 12


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_a_file_that_is_cut_off_anywhere_is_not_whole(tmp_path, format):
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, format)
    path = tmp_path / f"a{LAYOUTS['folder'].endings[format]}"
    for length in range(len(file.getvalue()) + 1):
        path.write_bytes(file.getvalue()[:length])
        assert writing.is_whole(path) == (length == len(file.getvalue())), length


def test_annotations_that_come_later_are_added(dataset, tmp_path):
    export(dataset, tmp_path / "out", "job.format=synfundus1m")
    seen = annotate(dataset)
    export(dataset, tmp_path / "out", "job.format=synfundus1m", "resume=auto")
    np.testing.assert_array_equal(SynFundus1M(tmp_path / "out").index().labels, labels(seen))


# -- the filter


def test_accepted_images_alone(dataset, tmp_path):
    accepted = [number % 3 != 0 for number in range(12)]
    filtered(dataset, [1] * 12, accepted)
    seen = annotate(dataset)
    out = tmp_path / "out"
    assert export(dataset, out, "job.format=synfundus1m", "job.only_accepted=true")["export/num_written"] == 8
    manifest = SynFundus1M(out).index()
    assert list(manifest.paths) == [f"Part0/{i}.png" for i in range(12) if accepted[i]]
    np.testing.assert_array_equal(manifest.labels, labels(seen)[accepted])
    assert len(list((out / "Part0").iterdir())) == 8


def test_accepted_images_of_a_set_without_a_filter_are_not_to_be_told(dataset, tmp_path):
    with refuses(ValueError, "job.only_accepted=true", f"'{dataset}'"):
        export(dataset, tmp_path / "out", "job.only_accepted=true")


# -- what is refused


def test_a_folder_with_another_sets_files_is_refused(dataset, tmp_path):
    out = tmp_path / "out"
    export(dataset, out)
    other = write_set(tmp_path / "other", side=SIDE, seed=1)
    with refuses(ValueError, f"output_dir={out}", "set '"):
        export(other, out, "resume=auto")
    with refuses(ValueError, f"output_dir={out}", "'folder'", "'synfundus1m'"):
        export(dataset, out, "resume=auto", "job.format=synfundus1m")


@pytest.mark.parametrize("there", ["Part3/0.png", "SynFundus-1M_annotation_15w.csv", "images/a.png", "labels.csv"])
def test_a_folder_with_files_of_unknown_origin_is_refused(dataset, tmp_path, there):
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).write_text("x")
    with refuses(ValueError, f"output_dir={tmp_path / 'out'}", f"'{Path(there).parts[0]}'", "export.json"):
        export(dataset, tmp_path / "out", "job.format=synfundus1m")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file()) == [Path(there).name]


@pytest.mark.parametrize("inside", ["", "files"])
def test_the_sets_own_folder_is_refused_and_left_as_it_is(dataset, inside):
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    with refuses(ValueError, f"output_dir={dataset / inside} ", "synthetic set"):
        export(dataset, dataset / inside, "resume=auto")
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


def test_a_set_that_is_not_complete_is_refused(tmp_path):
    dataset = write_set(tmp_path / "set", complete=False)
    with refuses(ValueError, f"'{dataset}'", "manifest.json", "resume=auto"):
        export(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_names_the_nearest(dataset, tmp_path):
    with refuses(ValueError, "job.format=synfundus ", "'synfundus1m'", "synfundus1m, folder"):
        export(dataset, tmp_path / "out", "job.format=synfundus")


def test_annotations_of_other_images_are_refused(dataset, tmp_path):
    annotate(dataset)
    file = sorted((dataset / "annotations").glob("*.parquet"))[1]
    pq.write_table(pq.read_table(file).take([1, 0, 2, 3]), file)
    with refuses(ValueError, file, dataset / "data" / file.name):
        export(dataset, tmp_path / "out")


def test_bytes_that_are_no_image_of_the_recipes_format_are_refused(dataset, tmp_path):
    recipe = json.loads((dataset / "recipe.json").read_text())
    recipe["image"]["format"] = "webp"
    (dataset / "recipe.json").write_text(json.dumps(recipe))
    with refuses(ValueError, dataset / "data/shard-00000-of-00003.parquet", "-0000000", "webp"):
        export(dataset, tmp_path / "out")
