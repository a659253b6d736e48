"""Tiny synthetic sets on disk, as `+exp=synthesize` leaves them, but of phantoms: what several rooms' tests share.

`write_set(folder)` gives a whole, valid set; the phantoms have the conditions that they are labelled with.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from datamodules import phantom
from datamodules.findings import NAMES, UNKNOWN
from datamodules.synthetic.set import id_prefix

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_set(
    root: Path,
    num_images: int = 12,
    num_shards: int = 3,
    group_rows: int = 3,
    side: int = 32,
    unknown: Sequence[str] = (),
    labels: Mapping[str, int] | None = None,
    complete: bool = True,
    seed: int = 0,
    masks: Sequence[str] = (),
) -> Path:
    """Write a set of `num_images` phantoms in shards of as many, but for the last; returns its folder.

    Args:
        group_rows: images of a row group.
        unknown: findings whose condition is -1 in every row.
        labels: findings that every phantom has at this level.
        complete: False leaves out the manifest, as a run that is not at its end.
        masks: structures of the phantoms whose exact masks the set has, as levels 1, 2, …; later ones cover earlier.
    """
    shown = tuple(sorted((labels or {}).items()))
    rows = [_phantom(seed, index, side, shown, tuple(masks)) for index in range(num_images)]
    conditions = {
        name: np.array([UNKNOWN if name in unknown else row[1][name] for row in rows], dtype=np.int8) for name in NAMES
    }
    numbers = np.arange(num_images, dtype=np.int64)
    seeds = (numbers * 7919 + seed + 1) % 2**32
    plan = pa.table({"index": numbers, "seed": seeds, **conditions})
    per_shard = -(-num_images // num_shards)
    recipe = _recipe(num_images, num_shards, per_shard, group_rows, side, seed)
    if masks:
        recipe["generator"]["masks"] = {"kind": "joint", "levels": ["background", *masks]}
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(plan, root / "plan.parquet")
    _write_json(root / "recipe.json", recipe)
    pq.write_table(pa.table({"patient": pa.array([1, 2, 3], pa.uint64())}), root / "trained_on.parquet")
    (root / "config.yaml").write_text(yaml.safe_dump({"name": "synthesize", "seed": seed}))
    _write_json(root / "record.json", {"status": "finished" if complete else "interrupted", "sessions": []})
    files = []
    for shard in range(num_shards):
        mine = slice(shard * per_shard, min((shard + 1) * per_shard, num_images))
        table = _shard(id_prefix(recipe), plan.slice(mine.start, mine.stop - mine.start), rows[mine], masks)
        files.append(_write_shard(root, f"shard-{shard:05d}-of-{num_shards:05d}", table, group_rows))
    if complete:
        num_bytes = sum(file["num_bytes"] for file in files)
        _write_json(
            root / "manifest.json", {**recipe, "files": files, "num_images": num_images, "num_bytes": num_bytes}
        )
    return root


@cache
def _phantom(
    seed: int, index: int, side: int, labels: tuple[tuple[str, int], ...], masks: tuple[str, ...]
) -> tuple[bytes, dict[str, int], bytes]:
    """A phantom as PNG, its labels, and the levels of its masks as PNG."""
    drawn = phantom.render(seed, index, side, dict(labels) or None)
    levels = np.zeros((side, side), dtype=np.uint8)
    for level, name in enumerate(masks, start=1):
        levels[drawn.masks[name] > 0] = level
    return encode(drawn.image), dict(drawn.labels), encode(levels)


def encode(picture: np.ndarray) -> bytes:
    """A picture as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _shard(prefix: str, plan: pa.Table, rows: Sequence[tuple[bytes, Any, bytes]], masks: Sequence[str]) -> pa.Table:
    """The rows of a shard, with the features as Hugging Face datasets keeps them."""
    names = [f"{prefix}{index:08d}" for index in plan.column("index").to_pylist()]
    named = list(zip(rows, names, strict=True))
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": row[0], "path": f"{n}.png"} for row, n in named], IMAGE),
        **({"mask": pa.array([{"bytes": row[2], "path": f"{n}.png"} for row, n in named], IMAGE)} if masks else {}),
        "id": pa.array(names, pa.string()),
        "index": plan.column("index"),
        "seed": plan.column("seed"),
        "attempts": pa.array([1] * len(names), pa.int8()),
        **{name: plan.column(name) for name in NAMES},
    }
    features = {name: {"dtype": "int8", "_type": "Value"} for name in ("attempts", *NAMES)}
    features |= {name: {"dtype": "int64", "_type": "Value"} for name in ("index", "seed")}
    features |= {"id": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    ordered = {name: features[name] for name in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": ordered}})}
    if masks:
        metadata["mask_levels"] = json.dumps(["background", *masks])
    return pa.table(columns).replace_schema_metadata(metadata)


def _write_shard(root: Path, stem: str, table: pa.Table, group_rows: int) -> dict[str, Any]:
    path = root / "data" / f"{stem}.parquet"
    for folder in (path.parent, root / "checksums"):
        folder.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=group_rows)
    told = {
        "file": f"data/{path.name}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "num_rows": table.num_rows,
        "num_bytes": path.stat().st_size,
    }
    _write_json(root / "checksums" / f"{stem}.json", told)
    return told


def _recipe(num_images: int, num_shards: int, per_shard: int, group_rows: int, side: int, seed: int) -> dict[str, Any]:
    return {
        "format": 1,
        "generator": {
            "checkpoint": "runs/ddpm_train/best.ckpt",
            "weights": "0123456789abcdef0123456789abcdef",
            "fingerprints": {"data": "a" * 32, "split": "b" * 32},
            "image_size": side,
            "config": {"data": {"image_size": side}},
        },
        "plan": {"fingerprint": "c" * 32, "num_images": num_images, "made_by": "tests"},
        "sampling": {
            "scheduler": "ddim",
            "num_steps": 2,
            "guidance": 1.0,
            "guidance_interval": None,
            "precision": "32",
        },
        "image": {"format": "png", "quality": None, "size": side},
        "shards": {"num_shards": num_shards, "images_per_shard": per_shard, "images_per_row_group": group_rows},
        "filter": None,
        "seed": seed,
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
