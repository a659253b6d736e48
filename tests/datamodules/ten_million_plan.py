"""Plan ten million images, look at the plan again as a resumed run does, and read it; prints seconds and peak memory.

`draw <plan>` by the training labels, `csv <table>` and `table <plan> <table>` by a table of one's own, `read <plan>`.
"""

import json
import sys
import time

import numpy as np
from ten_million_rows import peak_gib

from datamodules.findings import NAMES
from datamodules.phantom.labels import labels_of
from datamodules.plan.laws import LabelRows, TableLaw, TrainingLaw
from datamodules.synthetic.plan import Plan, write_plan

NUM_IMAGES, SHARD = 10_000_000, 2500


def draw(path: str) -> None:
    labels = np.array([[labels_of(0, index)[name] for name in NAMES] for index in range(2000)], dtype=np.int8)
    seen = LabelRows(*np.unique(labels, axis=0, return_counts=True))
    write_plan(path, TrainingLaw().chunks(NUM_IMAGES, 0, seen), 0)


def write_table(path: str) -> None:
    """A CSV of four columns, seeds among them."""
    stream = np.random.default_rng(0)
    with open(path, "w") as file:
        file.write("seed,dr_grade,is_gc,eye_side\n")
        for start in range(0, NUM_IMAGES, 500_000):
            cells = np.column_stack([np.arange(start, start + 500_000), stream.integers(0, 5, 500_000),
                                     stream.integers(0, 2, 500_000), stream.integers(0, 2, 500_000)])  # fmt: skip
            np.savetxt(file, cells, fmt="%d", delimiter=",")


def read(path: str) -> dict[str, object]:
    """As a resumed run: the whole plan is checked; then every batch of the shards of one process of a hundred."""
    from datamodules.plan.rows import PlanDataModule  # brings torch and Lightning, 0.8 GiB

    plan = Plan(path)
    fingerprint = plan.check()
    bounds = [(start, start + SHARD) for start in range(0, NUM_IMAGES, SHARD)]
    data = PlanDataModule(plan, bounds, lambda: range(0, len(bounds), 100), batch_size=64)
    num = sum(len(batch["seed"]) for batch in data.predict_dataloader())
    return {"fingerprint": fingerprint, "num_images": plan.num_images, "num_read": num}


if __name__ == "__main__":
    begin, found = time.perf_counter(), {}
    if sys.argv[1] == "draw":
        draw(sys.argv[2])
    elif sys.argv[1] == "table":
        write_plan(sys.argv[2], TableLaw(sys.argv[3]).chunks(None, 0, None), 0)
    elif sys.argv[1] == "csv":
        write_table(sys.argv[2])
    else:
        found = read(sys.argv[2])
    print(json.dumps({**found, "seconds": time.perf_counter() - begin, "peak_gib": peak_gib()}))
