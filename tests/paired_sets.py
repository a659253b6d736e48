"""Tiny synthetic sets of pairs of image and mask on disk, of phantoms, as `+exp=synthesize` leaves them."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from synthetic_sets import IMAGE, write_set

from datamodules import phantom

LEVELS = ("background", "disc", "cup")


def write_pairs(root: Path, num_images: int = 24, side: int = 32, accepted: Sequence[bool] | None = None) -> Path:
    """Write a set of phantoms with the masks of disc and cup, and perhaps a column `accepted`; returns its folder."""
    write_set(root, num_images, num_shards=2, group_rows=4, side=side)
    masks = [_mask(phantom.render(0, index, side).masks) for index in range(num_images)]
    return add_masks(root, masks, LEVELS, accepted)


def add_masks(
    root: Path, masks: Sequence[np.ndarray], levels: Sequence[str], accepted: Sequence[bool] | None = None
) -> Path:
    """Give the images of a whole set masks, in their order; its checksums and its manifest follow."""
    manifest, start = json.loads((root / "manifest.json").read_text()), 0
    for told in manifest["files"]:
        path = root / told["file"]
        table = pq.read_table(path)
        mine = slice(start, start := start + table.num_rows)
        pictures = [{"bytes": _png(mask), "path": "mask.png"} for mask in masks[mine]]
        metadata = {**table.schema.metadata, b"mask_levels": json.dumps(list(levels)).encode()}
        table = table.append_column("mask", pa.array(pictures, IMAGE))
        if accepted is not None:
            table = table.append_column("accepted", pa.array(list(accepted[mine])))
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)
        told |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "num_bytes": path.stat().st_size}
        (root / "checksums" / f"{path.stem}.json").write_text(json.dumps(told))
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def _mask(shapes: dict[str, np.ndarray]) -> np.ndarray:
    mask = (shapes["disc"] > 0).astype(np.uint8)
    mask[shapes["cup"] > 0] = 2
    return mask


def _png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()
