"""`data=synthetic`: a set is read back with its conditions or its annotations; one that is not whole is refused."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from PIL import Image
from refusals import refuses
from synthetic_sets import write_set

from datamodules.annotated_shards import SyntheticSource
from datamodules.findings import NAMES
from datamodules.sources.union import UnionSource
from datamodules.streaming import ShardDataModule
from experiments.unions import union_sources

GRADE, AMD, SIDE_OF_EYE = (NAMES.index(name) for name in ("dr_grade", "is_amd", "eye_side"))
SPLIT = {"train": 0.8, "val": 0.2}


def annotate(root, told=("dr_grade", "is_amd", "eye_side"), change=lambda table: table, group_rows=3):
    """Write annotations of a set: all else than its conditions, every fifth image not told; returns them by id."""
    found = {}
    (root / "annotations").mkdir(exist_ok=True)
    for shard in sorted((root / "data").glob("*.parquet")):
        table = pq.read_table(shard)
        columns = {"id": table.column("id")}
        for name in NAMES:
            other = [(v + 1) % (5 if name == "dr_grade" else 2) for v in table.column(name).to_pylist()]
            other = [None if row % 5 == 4 or name not in told else level for row, level in enumerate(other)]
            is_number = name in ("dr_grade", "eye_side")
            columns[name] = pa.array([v if v is None or is_number else bool(v) for v in other],
                                     pa.int8() if is_number else pa.bool_())  # fmt: skip
            if not is_number:
                columns[f"p_{name}"] = pa.array(np.full(len(other), 0.5, dtype=np.float32))
            for key, level in zip(table.column("id").to_pylist(), other, strict=True):
                found.setdefault(key, []).append(-1 if level is None else int(level))
        columns["advice"] = pa.array(["not medical advice"] * table.num_rows)
        pq.write_table(change(pa.table(columns)), root / "annotations" / shard.name, row_group_size=group_rows)
    return found


@pytest.fixture
def root(tmp_path):
    return write_set(tmp_path / "set", num_images=25, num_shards=3, group_rows=3, side=24)


@pytest.fixture
def read(tmp_path):
    def build(root, labels="condition", **options):
        settings = {
            "image_size": 24,
            "batch_size": 4,
            "cache_dir": tmp_path / "cache",
            "fractions": SPLIT,
            "flip": False,
        }
        source = SyntheticSource(root, labels=labels)
        data = ShardDataModule(source, **settings | {"cache_workers": 1, "num_lanes": 2, "window_groups": 2} | options)
        data.prepare_data()
        data.setup()
        return data

    return build


def in_shards(root):
    """By id the picture and the conditions of every image of a set."""
    rows = [row for shard in sorted((root / "data").glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    return {
        row["id"]: (np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), [row[name] for name in NAMES])
        for row in rows
    }


def seen(data):
    """By id the labels of every image that is streamed in three passes."""
    loader, found = data.train_dataloader(), {}
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            found |= dict(zip(batch["id"], batch["labels"].tolist(), strict=True))
    return found


def test_a_set_is_read_back(root, read):
    data, written = read(root), in_shards(root)
    assert set(data.manifest.ids) == set(written) and len(written) == 25
    for batch in data.train_dataloader():
        for name, image, labels in zip(batch["id"], batch["image"], batch["labels"].tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), written[name][0]) and labels == written[name][1]
    assert set(data.manifest.table.column("source").to_pylist()) == {"synthetic"}


def test_annotations_as_labels(root, read):
    """Truth values become levels, what is not told unknown; in the index, in the sample and in the stream alike."""
    told = annotate(root)
    data = read(root, "annotation")
    by_index = dict(zip(data.manifest.ids, data.manifest.labels.tolist(), strict=True))
    assert by_index == told
    streamed = seen(data)
    assert len(streamed) > 10 and streamed.items() <= told.items()
    val = data.dataset("val")
    assert dict(zip(val.ids, val.labels.tolist(), strict=True)).items() <= told.items()
    column = data.manifest.labels
    assert set(column[:, AMD]) == {-1, 0, 1} and -1 in column[:, GRADE] and column[:, GRADE].max() > 1
    assert (column[:, NAMES.index("is_gc")] == -1).all()
    conditions = read(root)
    assert conditions.fingerprint != data.fingerprint
    assert (conditions.manifest.labels[:, AMD] >= 0).all()


def test_workers_read_annotations_too(root, read):
    told = annotate(root)
    assert seen(read(root, "annotation", num_workers=2)).items() <= told.items()


def test_a_set_that_is_not_annotated(root):
    with refuses(ValueError, "data.labels=annotation", "3 of 3") as caught:
        SyntheticSource(root, labels="annotation").index()
    assert f"python -m experiments.run +exp=annotate job.dataset={root} job.annotators=[" in str(caught.value)
    annotate(root)
    next((root / "annotations").glob("shard-00001*")).unlink()
    with refuses(ValueError, "1 of 3", "shard-00001-of-00003.parquet"):
        SyntheticSource(root, labels="annotation").index()


@pytest.mark.parametrize(
    ("change", "group_rows", "fact"),
    [
        (lambda table: table.slice(1), 3, "row groups"),
        (lambda table: table, 4, "row groups"),
        (lambda table: table.take(list(range(table.num_rows))[::-1]), 3, " ids "),
    ],
    ids=["a row less", "other row groups", "another order"],
)
def test_annotations_of_another_set(root, change, group_rows, fact):
    annotate(root, change=change, group_rows=group_rows)
    with refuses(ValueError, "shard-00000-of-00003.parquet", fact, "+exp=annotate"):
        SyntheticSource(root, labels="annotation").index()


def test_ids_are_compared_when_a_row_group_is_read(root, read):
    """An annotation that is exchanged after the index was read."""
    annotate(root)
    data = read(root, "annotation")
    annotate(root, change=lambda table: table.take(list(range(table.num_rows))[::-1]))
    with refuses(ValueError, "shard-00000-of-00003.parquet", " ids ", "+exp=annotate"):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["id"]),
        lambda table: table.set_column(0, "id", pa.array(np.arange(table.num_rows))),
        lambda table: table.set_column(1, "dr_grade", pa.array(["mild"] * table.num_rows)),
        lambda table: table.set_column(1, "dr_grade", pa.array([[1]] * table.num_rows)),
    ],
    ids=["no ids", "ids of numbers", "levels of words", "levels of lists"],
)
def test_a_file_of_another_kind_among_annotations(root, change):
    annotate(root, change=change)
    with refuses(ValueError, "shard-00000-of-00003.parquet", "p_is_amd float", "+exp=annotate"):
        SyntheticSource(root, labels="annotation").index()


def test_annotations_that_are_cut_short(root):
    annotate(root)
    path = next((root / "annotations").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with refuses(ValueError, path, "Parquet", "+exp=annotate"):
        SyntheticSource(root, labels="annotation").index()


def test_a_set_that_is_not_whole_is_refused(tmp_path):
    root = write_set(tmp_path / "set", complete=False)
    (root / "data" / "shard-00002-of-00003.parquet").unlink()
    with refuses(ValueError, "2 of 3", "resume=auto", "data.partial=true"):
        SyntheticSource(root).index()
    assert len(SyntheticSource(root, partial=True).index()) == 8


def test_what_is_no_set_of_ours_is_refused(shard_root):
    with refuses(FileNotFoundError, "data.root", "recipe.json", "data=shards"):
        SyntheticSource(shard_root).index()


def test_a_shard_that_is_not_that_of_the_manifest(root, tmp_path):
    other = write_set(tmp_path / "other", num_images=25, num_shards=3, group_rows=3, side=24, seed=9)
    name = "data/shard-00001-of-00003.parquet"
    (root / name).write_bytes((other / name).read_bytes())
    with refuses(ValueError, name, "manifest.json", "resume=auto"):
        SyntheticSource(root).index()


def test_other_labels_are_refused():
    with refuses(ValueError, "data.labels", "'annotations'", "mean 'annotation'"):
        SyntheticSource("x", labels="annotations")


def test_the_option(root, composed):
    words = ["+exp=classifier_train", "data=synthetic", f"data.root={root}", "data.image_size=16", "data.batch_size=4"]
    data = instantiate(composed(*words).data.module)
    assert isinstance(data.source, SyntheticSource) and data.source.labels == "condition" and data.num_workers == 2
    assert data.preview()["splits"]["train"]["num_images"] > 15
    annotated = instantiate(composed(*words, "data.labels=annotation").data.module)
    assert annotated.source.labels == "annotation"


def test_a_member_of_a_union(root):
    cfg = union_sources(["synthetic"], None, {"synthetic": str(root)})
    union = UnionSource({name: instantiate(each) for name, each in cfg.items()})
    assert len(union.index()) == 25 and set(union.index().labels[:, AMD]) <= {0, 1}


def test_smaller_parts_of_a_set_are_nested(root):
    parts = [set(SyntheticSource(root, num_images=number, seed=2).index().ids) for number in (3, 9, 25)]
    assert [len(part) for part in parts] == [3, 9, 25] and parts[0] < parts[1] < parts[2]
    assert set(SyntheticSource(root, num_images=9, seed=3).index().ids) != parts[1]
    with refuses(ValueError, root, 26, 25):
        SyntheticSource(root, num_images=26).index()
    with refuses(ValueError, "0", "at least 1"):
        SyntheticSource(root, num_images=0)


def test_only_what_a_filter_accepted(root):
    with refuses(ValueError, "shard-00000-of-00003", "accepted", "job.filter"):
        SyntheticSource(root, accepted=True).index()
    accepted, number = set(), 0
    for shard in sorted((root / "data").glob("*.parquet")):
        table = pq.read_table(shard)
        told = [(number + row) % 3 == 0 for row in range(table.num_rows)]
        accepted |= {name for name, yes in zip(table.column("id").to_pylist(), told, strict=True) if yes}
        number += table.num_rows
        pq.write_table(table.append_column("accepted", pa.array(told)), shard, row_group_size=3)
    source = SyntheticSource(root, partial=True, accepted=True)
    assert set(source.index().ids) == accepted and len(accepted) == 9
    some = set(SyntheticSource(root, partial=True, accepted=True, num_images=4).index().ids)
    assert some < accepted and len(some) == 4
    with refuses(ValueError, 10, 9, "accepted"):
        SyntheticSource(root, partial=True, accepted=True, num_images=10).index()
    data = ShardDataModule(source, 24, 2, root / "cache", fractions={"train": 1.0}, cache_workers=1)
    data.prepare_data()
    data.setup()
    written = in_shards(root)
    loader, streamed = data.train_dataloader(), {}
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            streamed |= dict(zip(batch["id"], batch["labels"].tolist(), strict=True))
    assert streamed == {name: written[name][1] for name in accepted}
