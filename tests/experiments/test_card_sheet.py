"""The contact sheet of a card: images of every condition, of few row groups."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from refusals import refuses
from released_sets import conditions, pictures, rewrite
from synthetic_sets import write_set

from callbacks.image_sheet import MARGIN
from datamodules.findings import NAMES
from datamodules.images import read_image
from datamodules.synthetic import SyntheticSet
from datamodules.synthetic.plan import Plan
from experiments.card import sheet
from experiments.card.writing import write_card
from experiments.inspection.pictures import shown


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Twenty-four phantoms in three shards; `is_pm` is known of none."""
    return write_set(tmp_path / "set", num_images=24, group_rows=4, side=32, unknown=["is_pm"])


def test_sheet_shows_images_that_have_the_condition_of_their_row(dataset):
    """The cells of each row are the first images with its condition, in the row groups that are read."""
    write_card(dataset, num_columns=24)
    picture = np.asarray(Image.open(dataset / "samples" / "contact_sheet.png"))
    told, cell = conditions(dataset), 128 + MARGIN
    wanted = [rows for rows in (np.flatnonzero(one.holds(told)) for one in sheet.conditions()) if len(rows)]
    assert picture.shape[0] == len(wanted) * cell + MARGIN
    left = picture.shape[1] - 24 * cell
    files = pictures(dataset)
    for number, rows in enumerate(wanted):
        top = MARGIN + number * cell
        for column, row in enumerate(rows):
            place = left + column * cell
            image = shown(read_image(io.BytesIO(files[row])))
            np.testing.assert_array_equal(picture[top : top + 128, place : place + 128], image)


def test_rows_of_the_sheet_are_what_they_are_called():
    labels = np.full((5, len(NAMES)), -1)
    for row, levels in enumerate([{"dr_grade": 0, "is_gc": 0}, {"dr_grade": 2, "is_gc": 0}, {"is_gc": 1}, {},
                                  {"dr_grade": 0, "is_fundus": 0}]):  # fmt: skip
        for name, level in levels.items():
            labels[row, NAMES.index(name)] = level
    found = {one.title: np.flatnonzero(one.holds(labels)).tolist() for one in sheet.conditions()}
    assert {title: rows for title, rows in found.items() if rows} == {
        "No disease": [0],
        "Diabetic retinopathy: moderate": [1],
        "Glaucoma": [2],
        "Fundus photograph: no": [4],
    }
    assert len(found) == 1 + 4 + 10 + 4 + 2


def test_a_set_without_a_known_condition_has_a_row_of_any_image(tmp_path):
    dataset = write_set(tmp_path / "set", num_images=4, num_shards=1, unknown=NAMES)
    write_card(dataset)
    assert Image.open(dataset / "samples" / "contact_sheet.png").height == 128 + 2 * MARGIN


@given(counts=arrays.arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 8)), elements=st.integers(0, 9)),
       num_columns=st.integers(1, 12))  # fmt: skip
def test_row_groups_that_are_chosen_hold_enough_and_none_is_of_no_use(counts, num_columns):
    chosen = sheet.choose(counts, num_columns)
    wanted = np.minimum(counts.sum(axis=0), num_columns)
    assert (np.minimum(counts[chosen].sum(axis=0), num_columns) == wanted).all()
    assert len(chosen) == len(set(chosen)) <= wanted.sum()
    assert chosen == sorted(chosen)


def test_a_row_group_that_has_all_is_the_only_one():
    counts = np.zeros((1000, 5), dtype=np.int32)
    counts[::7, 0] = 100
    counts[613] = 6
    assert sheet.choose(counts, 6) == [613]


def test_few_row_groups_are_read(tmp_path, monkeypatch):
    dataset = SyntheticSet(write_set(tmp_path / "set", num_images=48, num_shards=2, group_rows=2, side=16))
    read = []
    original = sheet._decoded
    monkeypatch.setattr(sheet, "_decoded", lambda *given: read.append(given[1]) or original(*given))
    sheet.sheet(dataset, Plan(dataset.root / "plan.parquet"), 1)
    assert 1 <= len(read) <= 12 and len(set(read)) == len(read), "of 24"


def test_shards_of_another_order_are_refused(dataset):
    rewrite(dataset, lambda table: table.take(list(range(table.num_rows))[::-1]))
    with refuses(ValueError, dataset / "data/shard-00000-of-00003.parquet", "row group 0", "image 0"):
        write_card(dataset)
