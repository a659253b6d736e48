"""Annotations on disk: the rows of the data shard, whole or not there, of one recipe and no other."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from refusals import refuses

from callbacks.annotation_writer import AnnotationWriter, schema_of
from datamodules.synthetic.annotations import AnnotationFolder

LEVELS = {"dr_grade": 3, "is_gc": 2, "is_amd": 2, "eye_side": 2}
NAMES = ["shard-00000-of-00002", "shard-00001-of-00002"]
RECIPE = {
    "annotators": [{"run": "a", "weights": "0123456789", "findings": ["dr_grade", "is_gc"], "image_size": 32}],
    "thresholds": {"is_gc": 0.75},
    "precision": "32-true",
    "advice": 1,
    "data": {NAMES[0]: "aa", NAMES[1]: "bb"},
}
OTHER = RECIPE["annotators"][0] | {"run": "b", "weights": "9876543210"}
GROUPS = [[3, 2], [1]]  # rows of the row groups of each shard


def recipe(**changes):
    return json.loads(json.dumps(RECIPE)) | changes


@pytest.fixture
def folder(tmp_path):
    made = AnnotationFolder(tmp_path / "set" / "annotations", RECIPE)
    made.begin(overwrite=False)
    return made


def batches(shard, batch_size=2):
    """What a data module hands out, and what a module says of it."""
    first = 100 * shard
    for group, num_rows in enumerate(GROUPS[shard]):
        for row in range(0, num_rows, batch_size):
            count = min(batch_size, num_rows - row)
            ids = [f"id{first + row + place}" for place in range(count)]
            stream = torch.Generator().manual_seed(first + row)
            grade = torch.rand(count, 3, generator=stream).softmax(dim=1)
            chance = torch.rand(count, generator=stream)
            said = {"dr_grade": grade, "is_gc": torch.stack([1 - chance, chance], dim=1)}
            place = {"shard": f"{NAMES[shard]}.parquet", "row_group": group, "num_row_groups": len(GROUPS[shard])}
            yield {"id": ids, **place, "row": row, "num_rows": num_rows}, {"id": ids, "probabilities": said}
        first += num_rows


def writer_of(folder, advise):
    return AnnotationWriter(folder.shard, folder.write_checksum, folder.recipe["thresholds"], LEVELS, advise)


def feed(folder, shards=(0, 1), stop=None):
    writer = writer_of(folder, lambda levels: f"advice on {levels}")
    given = [pair for shard in shards for pair in batches(shard)]
    for number, (batch, outputs) in enumerate(given[:stop]):
        writer.on_predict_batch_end(None, None, outputs, batch, number)
    return given


def test_a_shard_has_the_rows_and_the_row_groups_of_its_data(folder):
    given = feed(folder)
    path = folder.shard(NAMES[0])
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == GROUPS[0]
    table, mine = pq.read_table(path), [pair for pair in given if pair[0]["shard"].startswith(NAMES[0])]
    assert table.schema == schema_of(LEVELS)
    assert table.column("id").to_pylist() == [name for batch, _ in mine for name in batch["id"]]
    for name, levels in (("dr_grade", 3), ("is_gc", 2)):
        said = torch.cat([outputs["probabilities"][name] for _, outputs in mine]).numpy()
        columns = [f"p_{name}_{level}" for level in range(levels)] if levels > 2 else [f"p_{name}"]
        stored = np.stack([table.column(column).to_numpy() for column in columns], axis=1)
        assert np.array_equal(stored, said if levels > 2 else said[:, 1:])
    chance = table.column("p_is_gc").to_numpy()
    assert 0 < (chance >= 0.75).sum() < (chance >= 0.5).sum() < len(chance), "else this shows nothing"
    assert table.column("is_gc").to_pylist() == (chance >= 0.75).tolist()
    grades = np.stack([table.column(f"p_dr_grade_{level}").to_numpy() for level in range(3)], axis=1)
    wanted = [int(np.argmax(np.cumsum(row) >= 0.5)) for row in grades.astype(np.float64)]
    assert table.column("dr_grade").to_pylist() == wanted
    first = {"dr_grade": wanted[0], "is_gc": int(chance[0] >= 0.75)}
    assert table.column("advice")[0].as_py() == f"advice on {first}"


def test_what_is_not_told_is_null_and_the_columns_are_always_the_same(folder):
    feed(folder)
    table = pq.read_table(folder.shard(NAMES[1]))
    for name in ("is_amd", "eye_side", "p_is_amd", "p_eye_side"):
        assert table.column(name).null_count == table.num_rows == 1
    kinds = [str(table.schema.field(name).type) for name in ("dr_grade", "is_gc", "eye_side", "p_is_gc")]
    assert kinds == ["int8", "bool", "int8", "float"]


def test_nothing_is_there_before_the_last_batch_of_a_shard(folder):
    feed(folder, stop=2)
    assert sorted(path.name for path in folder.root.rglob("*")) == ["recipe.json"]
    assert folder.pending() == NAMES
    with refuses(ValueError, folder.root, "2 of 2", "shard-00000-of-00002"):
        folder.finish()


def test_a_shard_begun_anew_forgets_what_came_before(folder):
    """As when the same callback is used again after a failure in the middle of a row group."""
    writer = writer_of(folder, str)
    for stop in (2, 1, None):
        for number, (batch, outputs) in enumerate(list(batches(0))[:stop]):
            writer.on_predict_batch_end(None, None, outputs, batch, number)
    assert pq.read_table(folder.shard(NAMES[0])).num_rows == sum(GROUPS[0])


def test_the_sum_has_the_checksums_of_the_files(folder):
    feed(folder)
    folder.finish()
    told = json.loads((folder.root / "annotation.json").read_text())
    assert told["annotators"] == RECIPE["annotators"] and told["num_images"] == 6
    for file, name in zip(told["files"], NAMES, strict=True):
        path = folder.root.parent / file["file"]
        assert path == folder.shard(name)
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file["num_bytes"] == path.stat().st_size
    folder.begin(overwrite=False)
    assert not (folder.root / "annotation.json").exists(), "it says that all is there, while work goes on"


@pytest.mark.parametrize("fault", ["gone", "cut", "altered", "no checksum", "of another recipe"])
def test_a_shard_that_is_not_whole_is_made_again(folder, fault):
    feed(folder)
    path, checksum = folder.shard(NAMES[1]), folder.root / "checksums" / f"{NAMES[1]}.json"
    if fault == "gone":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "altered":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif fault == "no checksum":
        checksum.unlink()
    else:
        checksum.write_text(checksum.read_text().replace(folder.identity, "0" * 32))
    assert folder.pending() == [NAMES[1]]
    with refuses(ValueError, "1 of 2", NAMES[1]):
        folder.finish()
    feed(folder, shards=(1,))
    assert folder.pending() == [] and folder.finish()["num_images"] == 6


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        (
            {"annotators": [RECIPE["annotators"][0] | {"run": "b", "weights": "9876543210"}]},
            ("a (01234567)", "b (98765432)"),
        ),
        ({"thresholds": {"is_gc": 0.5}}, ("thresholds", {"is_gc": 0.75}, {"is_gc": 0.5})),
        ({"precision": "bf16-mixed"}, ("precision", "32-true", "bf16-mixed")),
        ({"data": {NAMES[0]: "aa", NAMES[1]: "cc"}}, ("images",)),
    ],
)
def test_annotations_of_others_are_kept_unless_told_otherwise(folder, changes, facts):
    feed(folder)
    folder.finish()
    other = AnnotationFolder(folder.root, recipe(**changes))
    before = {path.name: path.read_bytes() for path in folder.root.iterdir() if path.is_file()}
    for refused in (other.check, other.begin):
        with refuses(ValueError, *facts, "job.overwrite=true"):
            refused(overwrite=False)
    assert {path.name: path.read_bytes() for path in folder.root.iterdir() if path.is_file()} == before
    other.begin(overwrite=True)
    assert other.pending() == NAMES and not (folder.root / "annotation.json").exists()
    assert sorted(path.name for path in folder.root.rglob("*")) == ["recipe.json"]


def test_where_annotators_lie_and_their_order_do_not_matter(folder):
    feed(folder)
    two = [*RECIPE["annotators"], {"run": "b", "weights": "99", "findings": [], "image_size": 32}]
    moved = [two[1], two[0] | {"run": "elsewhere"}]
    assert AnnotationFolder(folder.root, recipe(annotators=two)).identity == (
        AnnotationFolder(folder.root, recipe(annotators=moved, versions={"torch": "9"})).identity
    )
    same = AnnotationFolder(folder.root, recipe(annotators=[RECIPE["annotators"][0] | {"run": "moved"}]))
    same.begin(overwrite=True)
    assert same.pending() == [], "what is there is not made again, overwrite or not"


def test_a_folder_of_unknown_origin_is_refused(folder):
    feed(folder)
    (folder.root / "recipe.json").unlink()
    with refuses(ValueError, folder.root, "recipe.json", "job.overwrite=true"):
        folder.begin(overwrite=False)


def test_what_a_killed_process_left_is_removed(folder):
    feed(folder)
    (folder.root / f".{NAMES[0]}.4711.part.parquet").write_bytes(b"half")
    folder.begin(overwrite=False)
    assert not list(folder.root.glob(".*")) and folder.pending() == []
