"""Write generated images as Parquet shards that are whole or not there, each with its checksum."""

import io
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from callbacks.disk import refusal
from callbacks.files import own_folder, sha256, sync, write_json
from datamodules.errors import UserError

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
GB = 1e9


class ImageEncoder:
    """Images uint8 [H, W, 3], or masks uint8 [H, W], to the bytes of a file.

    Args:
        format: png (lossless), jpeg, or webp (lossless without a quality).
        quality: 1 to 100, of jpeg and webp; None gives jpeg 95.

    Raises:
        ValueError: a format that there is not, a quality out of range, or one for png.
    """

    def __init__(self, format: str = "png", quality: int | None = None) -> None:
        if format not in FORMATS:
            raise UserError(f"format={format!r} must be one of: {', '.join(FORMATS)}.")
        if quality is not None and (format == "png" or not 1 <= quality <= 100):
            said = "png is lossless and has none" if format == "png" else "it must be in 1..100"
            raise UserError(f"quality={quality} with format={format}: {said}.")
        self.format, self.quality = format, quality
        self.ending = "jpg" if format == "jpeg" else format
        lossy = {} if quality is None else {"quality": quality}
        self._options: dict[str, Any] = {
            "png": {"compress_level": 6},
            "jpeg": {"quality": 95, "subsampling": 0, **lossy},
            "webp": {"lossless": quality is None, **lossy},
        }[format]

    def __call__(self, image: np.ndarray) -> bytes:
        """The file's bytes."""
        file = io.BytesIO()
        Image.fromarray(image).save(file, FORMATS[self.format], **self._options)
        return file.getvalue()


PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MASK_ENCODER = ImageEncoder("png")


class ShardWriter(Callback):
    """Write what `predict_step` gives as shards, and before each its checksum as JSON.

    A batch has `index`, `labels` [B, F], `shard` (its number) and `is_last` (of its shard); what comes of it `image`
    uint8 [B, 3, H, W], `seed`, `attempts`, and perhaps `accepted` and `mask` uint8 [B, H, W], 255 for unknown.
    A batch is encoded while the next one is made, and
    written when that is there. A shard is written into a hidden file of this process, flushed to the disk, and moved
    into its place.

    Args:
        root: the set's folder.
        places: where all shards and their checksums lie, by number.
        findings: the columns of the labels.
        encoder: of images.
        id_prefix: what ids begin with; the image's number follows.
        rows_per_group: images of a row group, the least that can be read.
        num_threads: that encode images.
        mask_levels: names of the levels of masks, background first; () where there are no masks.

    Raises:
        OSError: what the disk says; when it is full, with how much is wanted.
        ValueError: a folder to write into is a link.
    """

    def __init__(
        self, root: str | Path, places: Sequence[tuple[Path, Path]], findings: Sequence[str], encoder: ImageEncoder,
        id_prefix: str, rows_per_group: int = 100, num_threads: int = 4, mask_levels: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.root, self.places, self.findings = Path(root), list(places), list(findings)
        self.encoder, self.id_prefix, self.rows_per_group = encoder, id_prefix, rows_per_group
        self.num_threads, self.mask_levels = num_threads, tuple(mask_levels)
        self.num_images = 0  # written by this process
        self.seconds = 0.0  # that making images has waited for writing
        self._shard: _Shard | None = None
        self._encoding: tuple[list[Future[bytes]], Mapping[str, Any], Mapping[str, Any]] | None = None
        self._rows: list[dict[str, Any]] = []
        self._threads: ThreadPoolExecutor | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the folders."""
        for folder in {path.parent for place in self.places for path in place}:
            own_folder(self.root, folder.relative_to(self.root))
        self._threads = ThreadPoolExecutor(self.num_threads)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Mapping[str, Any], batch: Mapping[str, Any],
        batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Begin to encode a batch, and write the one before; with the last of a shard the shard appears."""
        start = time.perf_counter()
        images = outputs["image"].permute(0, 2, 3, 1).contiguous().numpy()
        begun = [self._threads.submit(self.encoder, image) for image in images]
        if self.mask_levels:
            begun += [self._threads.submit(MASK_ENCODER, mask) for mask in outputs["mask"].numpy()]
        before, self._encoding = self._encoding, (begun, outputs, batch)
        self._write(before)
        self.seconds += time.perf_counter() - start

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last batch, and let the threads go."""
        start = time.perf_counter()
        last, self._encoding = self._encoding, None
        self._write(last)
        self._stop()
        self.seconds += time.perf_counter() - start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing half made."""
        self._abandon()
        self._stop()

    def _write(self, encoding: tuple[list[Future[bytes]], Mapping[str, Any], Mapping[str, Any]] | None) -> None:
        """A batch that is being encoded, into its shard."""
        if encoding is None:
            return
        begun, outputs, batch = encoding
        shard, checksum = self.places[batch["shard"]]
        try:
            if self._shard is None:
                schema = _schema(self.findings, "accepted" in outputs, self.mask_levels)
                self._shard = _Shard(self.root, shard, checksum, schema)
            self._rows += self._rows_of([file.result() for file in begun], outputs, batch)
            while len(self._rows) >= self.rows_per_group or (batch["is_last"] and self._rows):
                group, self._rows = self._rows[: self.rows_per_group], self._rows[self.rows_per_group :]
                self._shard.write(group)
            if batch["is_last"]:
                self._shard.finish()
                self._shard = None
        except OSError as error:
            self._abandon()
            full = refusal(error)
            if full is None:
                raise
            raise self._full(full.errno, shard) from error
        self.num_images += len(batch["index"])

    def _rows_of(
        self, files: Sequence[bytes], outputs: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """A row an image."""
        columns = {
            "index": batch["index"].tolist(),
            "seed": outputs["seed"].tolist(),
            "attempts": outputs["attempts"].tolist(),
        }
        if "accepted" in outputs:
            columns["accepted"] = outputs["accepted"].tolist()
        labels = batch["labels"].cpu().numpy()
        columns |= {name: labels[:, place].tolist() for place, name in enumerate(self.findings)}
        rows, num_rows = [], len(columns["index"])
        for place, file in enumerate(files[:num_rows]):
            own = {name: values[place] for name, values in columns.items()}
            name = f"{self.id_prefix}{own['index']:08d}"
            if self.mask_levels:
                own["mask"] = {"bytes": files[num_rows + place], "path": f"{name}.png"}
            rows.append({"image": {"bytes": file, "path": f"{name}.{self.encoder.ending}"}, "id": name, **own})
        return rows

    def _full(self, number: int, shard: Path) -> OSError:
        """That the disk is full, and how much is wanted."""
        written = [path.stat().st_size for path, _ in self.places if path.is_file()]  # of earlier runs too
        num_left = len(self.places) - len(written)
        wanted = "how much they take is not known yet"
        if written:
            wanted = f"they take about {num_left * sum(written) / len(written) / GB:.2g} GB"
        text = (
            f"no space left to write {shard.name}. {num_left} of {len(self.places)} shards are still to be made, "
            f"{wanted}, and {shutil.disk_usage(self.root).free / GB:.2g} GB are free for {str(self.root)!r}"
        )
        return OSError(number, text)

    def _abandon(self) -> None:
        self._encoding = None
        if self._shard is not None:
            self._shard.abandon()
        self._shard, self._rows = None, []

    def _stop(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None


class _Shard:
    """A shard in the making."""

    def __init__(self, root: Path, path: Path, checksum: Path, schema: pa.Schema) -> None:
        self.path, self.checksum, self.name = path, checksum, path.relative_to(root).as_posix()
        self.partial = path.with_name(f".{path.stem}.{socket.gethostname()}-{os.getpid()}.part")
        self.schema, self.num_rows = schema, 0
        try:
            self._writer = pq.ParquetWriter(self.partial, schema, compression="none")  # images are compressed already
        except BaseException:  # a disk without room for its first bytes
            self.partial.unlink(missing_ok=True)
            raise

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A row group."""
        self._writer.write_table(pa.Table.from_pylist(list(rows), self.schema))
        self.num_rows += len(rows)

    def finish(self) -> None:
        """Its checksum, then the shard itself, appear."""
        self._writer.close()
        rows = pq.read_metadata(self.partial).num_rows
        assert rows == self.num_rows, f"{self.partial} has {rows} rows, and {self.num_rows} were written"
        sync(self.partial)
        size, digest = self.partial.stat().st_size, sha256(self.partial)
        written = {"file": self.name, "sha256": digest, "num_rows": self.num_rows, "num_bytes": size}
        write_json(self.checksum, written)
        os.replace(self.partial, self.path)

    def abandon(self) -> None:
        """Take away what there is of it."""
        with suppress(OSError):  # the footer that Arrow writes finds no room either
            self._writer.close()
        self.partial.unlink(missing_ok=True)


def _schema(findings: Sequence[str], filtered: bool, mask_levels: Sequence[str]) -> pa.Schema:
    """Columns of a shard, with the features that Hugging Face datasets reads them by, and the levels of masks."""
    fields = [("image", PICTURE), *([("mask", PICTURE)] if mask_levels else []), ("id", pa.string()),
              ("index", pa.int64()), ("seed", pa.int64()), ("attempts", pa.int8())]  # fmt: skip
    fields += [("accepted", pa.bool_())] if filtered else []
    fields += [(name, pa.int8()) for name in findings]
    features = {
        name: {"_type": "Image"} if kind == PICTURE else {"dtype": str(kind), "_type": "Value"} for name, kind in fields
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if mask_levels:
        metadata["mask_levels"] = json.dumps(list(mask_levels))
    return pa.schema(fields, metadata=metadata)
