"""Shards with masks: read, cached, streamed and mirrored with their images; damaged ones are named."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refuses

from datamodules.fundus import FundusDataModule
from datamodules.masks import encode_mask
from datamodules.shard_files import ShardError
from datamodules.shards import ShardSource
from datamodules.streaming import ShardDataModule

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
LEVELS = ["background", "vessel", "disc"]


def pair(number, size=16):
    """An image whose red is twice its mask's level, and its number in blue."""
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[number % 8 : number % 8 + 6, 1 : 2 + number % 5] = 1 + number % 2
    image = np.stack([mask * 100, np.full_like(mask, 30), np.full_like(mask, number)], axis=-1)
    return image, mask


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(folder, num=40, levels=LEVELS, masks=None, metadata=True):
    folder.mkdir(exist_ok=True)
    pairs = [pair(number) for number in range(num)]
    masks = [encode_mask(mask) for _, mask in pairs] if masks is None else masks
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": png(image), "path": f"{n}.png"} for n, (image, _) in enumerate(pairs)], PICTURE
            ),
            "mask": pa.array([{"bytes": mask, "path": "m.png"} for mask in masks], PICTURE),
            "id": [f"p{n}" for n in range(num)],
        }
    )
    if metadata:
        table = table.replace_schema_metadata({"mask_levels": json.dumps(levels)})
    pq.write_table(table, folder / "shard-00000-of-00001.parquet", row_group_size=7)
    return folder


def check(batch):
    """Every image lies on its mask, and has the one that belongs to it."""
    red = (batch["image"][:, 0] * 255).round().long()
    assert torch.equal(red, batch["mask"] * 100)
    assert batch["mask"].flatten(1).any(dim=1).all()


def test_masks_are_read_and_named(tmp_path):
    source = ShardSource(write(tmp_path / "set"))
    index = source.index()
    assert source.mask_levels == tuple(LEVELS)
    for number in (0, 6, 7, 39):
        path = index.paths[number]
        assert np.array_equal(source.read_mask(path, path, 16), pair(number)[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_have_their_masks(tmp_path, workers):
    data = ShardDataModule(
        ShardSource(write(tmp_path / "set")), 16, 4, tmp_path / "cache", workers, {"train": 0.8, "val": 0.2, "test": 0},
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    seen = 0
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            batch = data.on_after_batch_transfer(batch, 0)
            check(batch)
            seen += len(batch["mask"])
    assert seen >= 32
    found = data.conditions("val")[np.array([0, 1])]
    assert found["mask"].dtype == torch.int64 and found["mask"].shape == (2, 16, 16) and found["labels"].shape[0] == 2


def test_a_small_set_is_cached_as_any_source(tmp_path):
    data = FundusDataModule(ShardSource(write(tmp_path / "set")), 16, 4, tmp_path / "cache", cache_workers=1)
    data.prepare_data()
    data.setup("fit")
    for batch in data.train_dataloader():
        check(data.on_after_batch_transfer(batch, 0))


def test_unknown_pixels_stay_unknown(tmp_path):
    masks = [np.full((16, 16), 255, dtype=np.uint8) for _ in range(9)]
    source = ShardSource(write(tmp_path / "set", 9, masks=[encode_mask(mask) for mask in masks]))
    path = source.index().paths[3]
    assert (source.read_mask(path, path, 16) == 255).all()


def test_shards_without_masks_have_none(tmp_path):
    folder = write(tmp_path / "set")
    file = folder / "shard-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).drop_columns("mask"), file)
    source = ShardSource(folder)
    assert source.mask_levels == () and "mask" not in source.index().table.column_names


@pytest.mark.parametrize(
    ("mask", "facts"),
    [
        (b"no picture", ("row 3", "p3", "mask")),
        (None, ("row 3", "p3", "mask")),
        (png(np.zeros((16, 16, 3), np.uint8)), ("row 3", "RGB")),
        (encode_mask(np.zeros((16, 8), np.uint8)), ("row 3", "8 x 16")),
        (encode_mask(np.full((16, 16), 9, np.uint8)), ("row 3", "level 9")),
    ],
)
def test_damaged_masks_are_named(tmp_path, mask, facts):
    masks = [encode_mask(pair(number)[1]) for number in range(5)]
    masks[3] = mask
    source = ShardSource(write(tmp_path / "set", 5, masks=masks))
    path = source.index().paths[3]
    with refuses(ShardError, "shard-00000-of-00001.parquet", *facts):
        source.read_mask(path, path, 16)


def test_levels_without_names_are_refused(tmp_path):
    with refuses(ShardError, "mask_levels"):
        _ = ShardSource(write(tmp_path / "set", metadata=False)).mask_levels
    with refuses(ShardError, "mask_levels", "background"):
        _ = ShardSource(write(tmp_path / "other", levels=["background"])).mask_levels
