"""A set that somebody sent, made to do harm or damaged on its way: a sentence that names the file, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf
from refusals import refuses
from released_sets import annotate, filtered, rewrite
from synthetic_sets import write_set

from datamodules.synthetic import SyntheticSet
from experiments.card.writing import write_card
from experiments.composition import compose_config
from experiments.dataset_export import dataset_export
from experiments.session import Run

SHARD = "data/shard-00001-of-00002.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Four phantoms in two shards, filtered and annotated."""
    root = write_set(tmp_path_factory.mktemp("whole") / "set", num_images=4, num_shards=2, group_rows=2, side=32)
    filtered(root, [1, 2, 1, 1], [True, True, False, True])
    manifest = json.loads((root / "manifest.json").read_text())
    annotate(root)
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


@pytest.fixture
def dataset(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


@pytest.fixture(scope="module")
def configuration() -> DictConfig:
    return compose_config(["+exp=dataset_export", "job.dataset=x"])


@pytest.fixture
def export(dataset, tmp_path, configuration) -> Callable[..., Path]:
    """Export the set as a folder of images into `out/here`; returns that folder."""

    def call(*words: str) -> Path:
        given = OmegaConf.from_dotlist([f"job.dataset={dataset}", f"output_dir={tmp_path / 'out' / 'here'}", *words])
        dataset_export(Run(OmegaConf.merge(configuration, given)))
        return tmp_path / "out" / "here"

    return call


def change(path: Path, key: str, value: Any) -> None:
    """Another value at a dotted key of a JSON file; None takes the key away."""
    found = node = json.loads(path.read_text())
    *parents, last = key.split(".")
    for name in parents:
        node = node[int(name) if isinstance(node, list) else name]
    if value is None:
        del node[last]
    else:
        node[last] = value
    path.write_text(json.dumps(found))


def in_every_shard(name: str, cells: list[Any], dataset: Path) -> None:
    """Another column in all shards, of which each has two rows."""

    def changed(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, pa.array(cells))

    rewrite(dataset, changed)


def files_outside(tmp_path: Path) -> set[Path]:
    inside = tmp_path / "out" / "here"
    return {path for path in tmp_path.rglob("*") if inside not in (path, *path.parents)} - {tmp_path / "out"}


def test_a_whole_set_is_exported(export):
    assert len(list(export().rglob("*.png"))) == 4


@pytest.mark.parametrize("name", ["../../escaped", "/{tmp}/escaped", "..", "a/b", "a\\b", "a\0b", "\x1b[2J", "", None])
@pytest.mark.parametrize("format", ["folder", "synfundus1m"])
def test_an_id_is_never_a_path(dataset, export, tmp_path, name, format):
    name = name and name.replace("/{tmp}", str(tmp_path))
    in_every_shard("id", ["a", name], dataset)
    before = files_outside(tmp_path)
    with refuses(ValueError, "shard-00000-of-00002.parquet", "id of image 1"):
        export(f"job.format={format}")
    assert files_outside(tmp_path) == before


@pytest.mark.parametrize("cells", [[0, -50_000], [0, 10**15], [0, 0], [0, None]])
def test_an_index_is_that_of_the_row(dataset, export, cells):
    in_every_shard("index", cells, dataset)
    with refuses(ValueError, "shard-00000-of-00002.parquet", f"index of image 1 is {cells[1]}"):
        export("job.format=synfundus1m")


def test_one_id_for_two_images_is_refused(dataset, export):
    in_every_shard("id", ["a", "a"], dataset)
    with refuses(ValueError, "shard-00000-of-00002.parquet", "id twice"):
        export()


@pytest.mark.parametrize("name", ["images", "images/00000"])
def test_a_link_in_the_folder_of_an_export_is_not_written_through(export, tmp_path, name):
    mine = tmp_path / "mine"
    mine.mkdir()
    there = export()
    shutil.rmtree(there / name)
    (there / name).symlink_to(mine)
    with refuses(ValueError, there / name, f"'{mine}'"):
        export("resume=auto")
    assert list(mine.iterdir()) == []


def test_a_formula_among_the_ids_is_text_in_the_table(dataset, export):
    in_every_shard("id", ["=1+1", "-a"], dataset)
    in_annotations(dataset, ["=1+1", "-a"])
    lines = (export() / "labels.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:3]] == ["'=1+1", "'-a"]


def in_annotations(dataset: Path, ids: list[str]) -> None:
    for file in sorted((dataset / "annotations").glob("*.parquet")):
        table = pq.read_table(file)
        pq.write_table(table.set_column(0, "id", pa.array(ids)), file)


RECIPES = [
    ("plan.num_images", "many"), ("plan.num_images", 10**30), ("plan.num_images", -1), ("plan", []), ("plan", None),
    ("shards.num_shards", 10**6), ("shards.images_per_shard", 0), ("shards.images_per_shard", 1.5), ("shards", "two"),
    ("image.format", "exe"), ("image.format", ["png"]), ("image.size", 10**9), ("image", None),
    ("generator.weights", 7), ("generator", None), ("filter", []), ("filter.findings", "dr_grade"),
    ("filter.findings", ["../x"]), ("seed", float("nan")),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), RECIPES)
def test_a_recipe_of_another_shape_is_named_with_its_key(dataset, key, value):
    change(dataset / "recipe.json", key, value)
    with refuses(ValueError, f"recipe.json: {key.split('.')[0]}") as caught:
        SyntheticSet(dataset)
    assert key.rpartition(".")[2] in str(caught.value)


MANIFESTS = [
    ("files.0.file", "../../secret.parquet"), ("files.0.file", "/etc/passwd"), ("files.0.num_rows", 10**12),
    ("files", []), ("files.0.num_rows", "2"), ("files", {}), ("files.1.sha256", None), ("num_images", 10**12),
    ("num_bytes", None),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), MANIFESTS)
def test_a_manifest_of_other_files_is_named(dataset, export, key, value):
    change(dataset / "manifest.json", key, value)
    for call in (export, lambda: write_card(dataset), lambda: list(SyntheticSet(dataset).verify())):
        with refuses(ValueError, dataset / "manifest.json", "Remedy"):
            call()


OTHERS = ["manifest.json", "recipe.json", "annotations/annotation.json", "record.json", "plan.parquet", SHARD,
          SHARD.replace("data", "annotations"), "trained_on.parquet"]  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"[]", b"null", b"\xff\xfe", b"PAR1" * 9, None], ids=repr)
@pytest.mark.parametrize("name", OTHERS)
def test_a_damaged_file_of_a_set_is_named(dataset, name, damage):
    path = dataset / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with refuses(ValueError, path, "Remedy"):
        write_card(dataset)


COLUMNS = [("image", ["a", "b"]), ("attempts", ["1", "2"]), ("accepted", [1, 0]), ("id", [1, 2]),
           ("dr_grade", ["a", "b"]), ("dr_grade", [0, 99])]  # fmt: skip


@pytest.mark.parametrize(("name", "cells"), COLUMNS)
def test_a_column_of_another_kind_is_named(dataset, export, name, cells):
    in_every_shard(name, cells, dataset)
    with refuses(ValueError, "shard-00000-of-00002.parquet", f"column '{name}'"):
        export()


def test_flipped_bytes_of_a_shard_are_named_by_card_and_export(dataset, export):
    content = bytearray((dataset / SHARD).read_bytes())
    middle = len(content) // 3
    content[middle : middle + 2000] = bytes(255 - byte for byte in content[middle : middle + 2000])
    (dataset / SHARD).write_bytes(content)
    for call in (export, lambda: write_card(dataset)):
        try:
            call()
        except ValueError as error:
            assert SHARD.rpartition("/")[2] in str(error) and "Remedy" in str(error)


def test_a_pasted_command_of_a_card_runs_nothing_of_the_recipe(dataset):
    change(dataset / "recipe.json", "generator.checkpoint", "x; touch pwned")
    change(dataset / "recipe.json", "sampling.scheduler", "ddim `touch pwned`")
    text = write_card(dataset).read_text()
    assert "ckpt=<folder>/'x; touch pwned'" in text and "'ddim `touch pwned`'" in text


def test_an_export_deletes_nothing_behind_a_link(export, tmp_path):
    there = export()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".notes.part.txt").write_text("mine")
    shutil.rmtree(there / "images" / "00000")
    (there / "images" / "00000").symlink_to(mine)
    with refuses(ValueError, there / "images/00000", f"'{mine}'"):
        export("resume=auto")
    (there / "images" / "00000").unlink()
    shutil.rmtree(there / "images")
    (there / "images").symlink_to(tmp_path)
    with refuses(ValueError, there / "images", f"'{tmp_path}'"):
        export("resume=auto")
    assert [path.read_text() for path in mine.iterdir()] == ["mine"]
