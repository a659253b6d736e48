"""Write a manifest of ten million rows, or read, split and filter it; prints seconds and the peak of memory as JSON."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.manifest import Manifest
from datamodules.splits import split_by_patient

NUM_ROWS, STEP = 10_000_000, 500_000


def write(path: str) -> None:
    stream, writer = np.random.default_rng(0), None
    for start in range(0, NUM_ROWS, STEP):
        rows = range(start, start + STEP)
        columns = {
            "id": pa.array([f"image-{row:09d}" for row in rows]),
            "path": pa.array([f"Part{row // 50_000}/{row}.png" for row in rows]),
            "patient": pa.array([f"p{row // 2}" for row in rows]),
            "split": pa.array([""] * STEP),
            "source": pa.array(["ten_million"] * STEP),
        }
        for name in NAMES:
            columns[name] = pa.array(stream.integers(-1, NUM_LEVELS[name], STEP).astype(np.int8))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def read(path: str) -> dict[str, float]:
    figures, begin = {}, time.perf_counter()
    manifest = Manifest.read(path)
    figures["open_s"] = time.perf_counter() - begin
    manifest = split_by_patient(manifest, {"train": 0.8, "val": 0.1, "test": 0.1}, seed=0)
    figures["split_s"] = time.perf_counter() - begin - figures["open_s"]
    found = manifest.where(dr_grade=[3, 4], is_gc=1)
    figures["filter_s"] = time.perf_counter() - begin - figures["open_s"] - figures["split_s"]
    return {**figures, "peak_gib": peak_gib(), "num_rows": len(manifest), "num_found": len(found)}


def peak_gib() -> float:
    """This program's peak, which getrusage would confuse with that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        print(json.dumps(read(sys.argv[2])))
