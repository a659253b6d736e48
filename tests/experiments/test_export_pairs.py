"""`+exp=dataset_export job.format=pairs`: a tiny set with masks as images, masks and a table."""

import csv
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from refusals import refuses
from released_sets import annotate, as_format, conditions, filtered, pictures, rewrite
from synthetic_sets import encode, write_set

from datamodules.findings import NAMES
from datamodules.images import read_image
from datamodules.sources.csv import CsvSource
from experiments import dataset_export as job
from experiments.composition import compose_config
from experiments.export import pictures as writing
from experiments.session import Run

SIDE = 32


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Seven phantoms in two shards with masks of vessels and disc."""
    return write_set(tmp_path / "set", 7, 2, side=SIDE, masks=("vessel", "disc"))


@cache
def configuration() -> DictConfig:
    return compose_config(["+exp=dataset_export", "job.format=pairs"])


def export(dataset: Path, out: Path, *words: str) -> dict[str, float]:
    given = OmegaConf.from_dotlist([f"job.dataset={dataset}", f"output_dir={out}", *words])
    return job.dataset_export(Run(OmegaConf.merge(configuration(), given)))


def column(dataset: Path, name: str) -> list:
    return [cell for shard in sorted((dataset / "data").glob("*")) for cell in pq.read_table(shard)[name].to_pylist()]


def masks(dataset: Path) -> list[np.ndarray]:
    return [np.array(Image.open(io.BytesIO(cell["bytes"]))) for cell in column(dataset, "mask")]


def with_masks(dataset: Path, change) -> None:
    """Write the set anew with `change(levels, number)` as its masks."""
    number = iter(range(100))

    def changed(table: pa.Table) -> pa.Table:
        cells = [np.array(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["mask"].to_pylist()]
        files = [{"bytes": encode(change(cell, next(number))), "path": "m.png"} for cell in cells]
        place = table.column_names.index("mask")
        return table.set_column(place, "mask", pa.array(files, table.schema.field("mask").type))

    rewrite(dataset, changed)


def test_images_masks_and_table_are_those_of_the_set(dataset, tmp_path):
    out = tmp_path / "out"
    assert export(dataset, out) == {"export/num_written": 7, "export/num_there": 0}
    ids, levels = column(dataset, "id"), masks(dataset)
    assert sorted(path.name for path in (out / "images").iterdir()) == [f"{name}.png" for name in ids]
    assert sorted(path.name for path in (out / "masks").iterdir()) == [f"{name}.png" for name in ids]
    assert [(out / "images" / f"{name}.png").read_bytes() for name in ids] == pictures(dataset)
    for name, wanted in zip(ids, levels, strict=True):
        with Image.open(out / "masks" / f"{name}.png") as mask:
            assert mask.mode == "L"
            np.testing.assert_array_equal(mask, wanted)
    assert {0, 1, 2} == set(np.unique(levels))
    assert json.loads((out / "levels.json").read_text()) == {
        "levels": {"background": 0, "vessel": 1, "disc": 2}, "unknown": 255,
    }  # fmt: skip
    with open(out / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "mask", "id", "seed", *NAMES]
    assert [row["seed"] for row in rows] == [str(seed) for seed in column(dataset, "seed")]
    assert [row["mask"] for row in rows] == [f"masks/{name}.png" for name in ids]
    np.testing.assert_array_equal([[int(row[name]) for name in NAMES] for row in rows], conditions(dataset))


def test_the_images_are_read_again_by_their_table(dataset, tmp_path):
    annotate(dataset)
    export(dataset, tmp_path / "out")
    manifest = CsvSource(tmp_path / "out", "labels.csv").index()
    assert manifest.ids == column(dataset, "id")
    np.testing.assert_array_equal(manifest.labels, conditions(dataset))
    assert (tmp_path / "out" / "annotations.csv").is_file()


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_other_formats_become_png_of_the_same_pixels(dataset, tmp_path, format):
    as_format(dataset, format)
    export(dataset, tmp_path / "out")
    for name, pixels in zip(column(dataset, "id"), pictures(dataset), strict=True):
        path = tmp_path / "out" / "images" / f"{name}.png"
        assert Image.open(path).format == "PNG"
        np.testing.assert_array_equal(read_image(path), read_image(io.BytesIO(pixels)))


def test_a_grey_png_becomes_one_of_three_colours(dataset, tmp_path):
    def grey(table: pa.Table) -> pa.Table:
        files = [encode(read_image(io.BytesIO(cell["bytes"]))[..., 0]) for cell in table["image"].to_pylist()]
        cells = pa.array([{"bytes": file, "path": "x"} for file in files], table.schema.field("image").type)
        return table.set_column(0, "image", cells)

    rewrite(dataset, grey)
    export(dataset, tmp_path / "out")
    for name, pixels in zip(column(dataset, "id"), pictures(dataset), strict=True):
        with Image.open(tmp_path / "out" / "images" / f"{name}.png") as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.array(image)[..., 1], read_image(io.BytesIO(pixels))[..., 0])


def test_two_levels_can_be_0_and_255(tmp_path):
    dataset = write_set(tmp_path / "set", 4, 1, side=SIDE, masks=("disc",))
    export(dataset, tmp_path / "out", "job.binary_masks=true")
    for name, wanted in zip(column(dataset, "id"), masks(dataset), strict=True):
        np.testing.assert_array_equal(Image.open(tmp_path / "out" / "masks" / f"{name}.png"), wanted * 255)
    assert json.loads((tmp_path / "out" / "levels.json").read_text()) == {"levels": {"background": 0, "disc": 255}}


def test_0_and_255_are_refused_for_three_levels_and_for_unknown_pixels(dataset, tmp_path):
    with refuses(ValueError, "job.binary_masks=true", "background, vessel, disc"):
        export(dataset, tmp_path / "out", "job.binary_masks=true")
    other = write_set(tmp_path / "other", 4, 1, side=SIDE, masks=("disc",))
    with_masks(other, lambda levels, number: np.where((np.arange(SIDE) < number)[:, None], 255, levels).astype("u1"))
    with refuses(ValueError, "shard-00000-of-00001.parquet", "-00000001'", "job.binary_masks=false"):
        export(other, tmp_path / "out2", "job.binary_masks=true", "job.num_workers=1")
    export(other, tmp_path / "out3")
    mask = np.array(Image.open(tmp_path / "out3" / "masks" / f"{column(other, 'id')[3]}.png"))
    assert (mask[:3] == 255).all() and (mask[3:] < 2).all()


def test_accepted_pairs_alone(dataset, tmp_path):
    filtered(dataset, [1] * 7, [number != 2 for number in range(7)])
    assert export(dataset, tmp_path / "out", "job.only_accepted=true")["export/num_written"] == 6
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 6


def test_going_on_writes_the_pairs_of_which_a_file_is_missing_or_cut_off(dataset, tmp_path, monkeypatch):
    out, original, written = tmp_path / "out", writing.write_pair, []

    def stop_after_four(path, *others):
        if len(written) == 4:
            raise KeyboardInterrupt
        original(path, *others)
        written.append(path)

    monkeypatch.setattr(writing, "write_pair", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        export(dataset, out, "job.num_workers=1")
    assert not (out / "labels.csv").exists() and not (out / "levels.json").exists()
    monkeypatch.setattr(writing, "write_pair", original)
    cut, left = out / "masks" / written[1].name, out / "masks" / ".a.123.part.png"
    cut.write_bytes(cut.read_bytes()[:-3])
    left.write_bytes(b"half")
    assert export(dataset, out, "resume=auto") == {"export/num_written": 4, "export/num_there": 3}
    assert not left.exists()
    whole = tmp_path / "whole"
    export(dataset, whole)
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.suffix in (".png", ".csv")]
    assert len(names) == 15
    assert [name for name in names if (out / name).read_bytes() != (whole / name).read_bytes()] == []


# -- what is refused


def test_a_set_without_masks_is_refused(tmp_path):
    dataset = write_set(tmp_path / "set", 2, 1, side=SIDE)
    with refuses(ValueError, f"'{dataset}'", "no masks", "job.format=folder"):
        export(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", ".."])
def test_an_id_is_never_a_path(dataset, tmp_path, name):
    def renamed(table: pa.Table) -> pa.Table:
        ids = [name, *table["id"].to_pylist()[1:]]
        return table.set_column(table.column_names.index("id"), "id", pa.array(ids))

    rewrite(dataset, renamed)
    with refuses(ValueError, "id of image 0", repr(name)):
        export(dataset, tmp_path / "out" / "deep")
    assert not [path for path in tmp_path.rglob("*.png") if dataset not in path.parents]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda levels, _: levels + np.uint8(3), "level 3"),
        (lambda levels, _: levels[:-4], f"{SIDE} x {SIDE - 4}"),
        (lambda levels, _: np.stack([levels] * 3, -1), "mode 'RGB'"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(dataset, tmp_path, change, fact):
    with_masks(dataset, change)
    with refuses(ValueError, dataset / "data/shard-00000-of-00002.parquet", "-00000000'", fact):
        export(dataset, tmp_path / "out", "job.num_workers=1")


def test_another_coding_in_the_same_folder_is_refused(tmp_path):
    dataset = write_set(tmp_path / "set", 2, 1, side=SIDE, masks=("disc",))
    export(dataset, tmp_path / "out")
    with refuses(ValueError, f"output_dir={tmp_path / 'out'}", "binary_masks False instead of True"):
        export(dataset, tmp_path / "out", "job.binary_masks=true", "resume=auto")


@pytest.mark.parametrize("words", [["job.real=[data=drive]"], ["job.more_datasets=[x]"], ["job.dataset=null"]])
def test_settings_of_nnunet_are_refused(dataset, tmp_path, words):
    with refuses(ValueError, "job.format=pairs", "job.real", "job.more_datasets", "job.dataset"):
        export(dataset, tmp_path / "out", *words)
