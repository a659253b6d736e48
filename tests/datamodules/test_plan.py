"""Plans: drawn by laws that keep their shares, written once, read in pieces, checked row by row."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from datamodules.findings import NAMES, NUM_LEVELS
from datamodules.phantom.labels import labels_of
from datamodules.plan.laws import BalancedLaw, LabelRows, TrainingLaw, draw
from datamodules.plan.rows import PlanDataModule
from datamodules.synthetic.plan import CHUNK, SCHEMA, Plan, PlanError, write_plan

DR, GC, EYE = (NAMES.index(name) for name in ("dr_grade", "is_gc", "eye_side"))


@pytest.fixture(scope="module")
def seen() -> LabelRows:
    """The labels of 1500 phantoms."""
    labels = np.array([[labels_of(0, index)[name] for name in NAMES] for index in range(1500)], dtype=np.int8)
    return LabelRows(*np.unique(labels, axis=0, return_counts=True))


def written(path, law, num_images, seen, seed=0) -> Plan:
    write_plan(path, law.chunks(num_images, seed, seen), seed)
    return Plan(path)


def labels_in(plan: Plan) -> np.ndarray:
    return np.concatenate([rows.labels for rows in plan.chunks()])


def test_every_row_of_labels_gets_its_share_but_for_less_than_one_image(seen):
    for num_images in (1, 7, 5000):
        chosen = np.concatenate([chunk.labels for chunk in draw(seen.labels, seen.counts, num_images, seed=3)])
        found, counts = np.unique(chosen, axis=0, return_counts=True)
        assert len(chosen) == num_images
        shares = {row.tobytes(): count for row, count in zip(found, counts, strict=True)}
        for row, count in zip(seen.labels, seen.counts, strict=True):
            wanted = num_images * count / seen.counts.sum()
            assert abs(shares.pop(row.tobytes(), 0) - wanted) < 1
        assert not shares  # nothing that was never seen


def test_a_plan_follows_the_training_labels_in_an_order_at_random(tmp_path, seen):
    labels = labels_in(written(tmp_path / "plan.parquet", TrainingLaw(), 6000, seen))
    for column, name in enumerate(NAMES):
        for level in range(NUM_LEVELS[name]):
            wanted = seen.counts[seen.labels[:, column] == level].sum() / seen.counts.sum()
            assert abs((labels[:, column] == level).mean() - wanted) < 0.02, (name, level)
    halves = [(labels[part, DR] > 0).mean() for part in (slice(0, 3000), slice(3000, None))]
    assert abs(halves[0] - halves[1]) < 0.05


def test_a_balanced_plan_has_every_rare_level_as_often_as_its_share(tmp_path, seen):
    labels = labels_in(written(tmp_path / "plan.parquet", BalancedLaw(), 8000, seen))
    rare = []
    for column, name in enumerate(NAMES):
        counts = [seen.counts[seen.labels[:, column] == level].sum() for level in range(NUM_LEVELS[name])]
        rare += [(column, level) for level in range(NUM_LEVELS[name]) if level != np.argmax(counts) and counts[level]]
    rare = [cell for cell in rare if cell[0] != EYE]
    for column, level in rare:
        share = (labels[:, column] == level).mean()
        assert share > 1 / (len(rare) + 1) - 0.002, (NAMES[column], level)
        before = seen.counts[seen.labels[:, column] == level].sum() / seen.counts.sum()
        assert share > before or before > 0.15
    none = np.all([labels[:, column] != level for column, level in rare], axis=0)
    assert abs(none.mean() - 1 / (len(rare) + 1)) < 0.002


def test_seeds_are_all_different_and_follow_the_seed_of_the_run(tmp_path, seen):
    plans = [written(tmp_path / f"{seed}.parquet", TrainingLaw(), CHUNK + 10, seen, seed) for seed in (0, 0, 1)]
    seeds = [np.concatenate([rows.seed for rows in plan.chunks()]) for plan in plans]
    assert all(len(np.unique(one)) == CHUNK + 10 for one in seeds)
    assert np.array_equal(seeds[0], seeds[1]) and plans[0].check() == plans[1].check()
    assert not np.isin(seeds[2][:100], seeds[0]).any() and plans[2].check() != plans[0].check()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2 * CHUNK + 9), st.integers(1, 3000))
def test_any_rows_are_read_as_they_were_written(seen, tmp_path_factory, start, length):
    path = tmp_path_factory.getbasetemp() / "whole_plan.parquet"
    plan = Plan(path) if path.exists() else written(path, TrainingLaw(), 2 * CHUNK + 10, seen)
    table = pq.read_table(path)
    stop = min(start + length, 2 * CHUNK + 10)
    rows = plan.rows(start, stop)
    assert rows.index.tolist() == list(range(start, stop))
    wanted = table.slice(start, stop - start)
    assert rows.seed.tolist() == wanted.column("seed").to_pylist()
    for column, name in enumerate(NAMES):
        assert rows.labels[:, column].tolist() == wanted.column(name).to_pylist()


def test_a_plan_that_was_altered_is_refused_by_row(tmp_path, seen):
    path = tmp_path / "plan.parquet"
    whole = written(path, TrainingLaw(), 50, seen)
    fingerprint = whole.check()
    table = pq.read_table(path)
    for column, row, value in (("dr_grade", 7, 5), ("seed", 3, -1), ("index", 9, 8)):
        cells = table.column(column).to_pylist()
        cells[row] = value
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array(cells, SCHEMA.field(column).type)), path)
        with refuses(PlanError, path, f"row {row}", repr(column), value):
            Plan(path).check()
    cells = table.column("is_gc").to_pylist()
    cells[0] = 1 - cells[0]
    place = table.column_names.index("is_gc")
    pq.write_table(table.set_column(place, "is_gc", pa.array(cells, pa.int8())), path)
    assert Plan(path).check() != fingerprint
    pq.write_table(table.drop_columns("is_gc"), path)
    with refuses(PlanError, f"plan=table plan.path={path}"):
        Plan(path)
    path.write_bytes(path.read_bytes()[:-10])
    with refuses(PlanError, path, "Parquet"):
        Plan(path)


def test_nothing_is_left_of_a_plan_that_cannot_be_written(tmp_path):
    def broken():
        yield np.zeros((10, len(NAMES)), dtype=np.int8), None
        raise PlanError("a bad row")

    with refuses(PlanError, "a bad row"):
        write_plan(tmp_path / "plan.parquet", broken(), 0)
    assert not list(tmp_path.iterdir())
    with refuses(PlanError, tmp_path / "plan.parquet", "num_images"):
        write_plan(tmp_path / "plan.parquet", iter(()), 0)


def test_a_law_that_draws_needs_a_number_and_the_labels(seen):
    with refuses(PlanError, "num_images=None"):
        TrainingLaw().chunks(None, 0, seen)
    with refuses(PlanError, "labels", "plan=table", "base: independent"):
        BalancedLaw().chunks(10, 0, None)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_shards_are_dealt_out_whole_and_batches_do_not_cross_them(tmp_path, seen, num_ranks):
    plan = written(tmp_path / "plan.parquet", TrainingLaw(), 103, seen)
    bounds = [(start, min(start + 20, 103)) for start in range(0, 103, 20)]
    wanted = [0, 2, 3, 5]
    data = PlanDataModule(plan, bounds, lambda: wanted, batch_size=8)
    shares = [data.share(rank, num_ranks) for rank in range(num_ranks)]
    assert sorted(sum(shares, [])) == wanted
    assert max(map(len, shares)) - min(map(len, shares)) <= 1, "whichever are missing, all have as much to do"
    batches = list(data.predict_dataloader())
    for shard in wanted:
        mine = [batch for batch in batches if batch["shard"] == shard]
        assert [batch["is_last"] for batch in mine] == [False] * (len(mine) - 1) + [True]
        index = [number for batch in mine for number in batch["index"].tolist()]
        assert index == list(range(*bounds[shard]))
        rows = plan.rows(*bounds[shard])
        assert np.array_equal(np.concatenate([batch["labels"].numpy() for batch in mine]), rows.labels)
        assert np.array_equal(np.concatenate([batch["seed"].numpy() for batch in mine]), rows.seed)


@pytest.mark.slow
def test_ten_million_images_are_planned_looked_at_again_and_read_within_a_gibibyte(tmp_path):
    """Each in a process of its own, whose peak of memory it is; by the labels, and by a CSV table with seeds."""

    def run(*words: str) -> dict:
        program = Path(__file__).with_name("ten_million_plan.py")
        said = subprocess.run(
            [sys.executable, program, *words], check=True, timeout=280, capture_output=True, cwd=tmp_path
        )
        return json.loads(said.stdout)

    assert run("draw", "drawn.parquet")["peak_gib"] < 1
    run("csv", "table.csv")
    assert run("table", "told.parquet", "table.csv")["peak_gib"] < 1
    for plan in ("drawn.parquet", "told.parquet"):
        figures = run("read", plan)
        assert figures["num_images"] == 10_000_000 and figures["num_read"] == 100_000
        assert figures["peak_gib"] < 1, figures
