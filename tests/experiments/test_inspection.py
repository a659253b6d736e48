"""The parts of an inspection: counts and shares by hand, pictures that are whole, a page that escapes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks.mask_outlines import OUTLINES, outlined
from datamodules.dataset import FundusDataset
from datamodules.findings import NAMES
from datamodules.manifest import Manifest
from experiments.decoded import decoded_rows
from experiments.inspection.page import Inspection, page
from experiments.inspection.pictures import cooccurrence_plot, sheet_rows, strip, with_legend
from experiments.inspection.tables import Cooccurrence, SourceFacts, cooccurrence, level_counts

ADDRESSES = {"bad": "javascript:alert(1)", "good": "https://a.b/?x=1&y"}

# -- tables


def labels_of(*rows: dict[str, int]) -> np.ndarray:
    return np.array([[row.get(name, -1) for name in NAMES] for row in rows])


def test_cooccurrence_is_over_images_where_both_are_known():
    found = cooccurrence(labels_of({"dr_grade": 3, "is_dme": 1}, {"dr_grade": 1, "is_dme": 0}, {"dr_grade": 2},
                                   {"dr_grade": 0, "is_dme": 0}, {"is_dme": 1}, {"is_gc": 0}))  # fmt: skip
    assert found.names == ("dr_grade", "is_dme", "is_gc")
    assert found.num_images.tolist() == [[3, 2, 0], [1, 2, 0], [0, 0, 0]]
    assert found.share[:2, :2].tolist() == [[1, 0.5], [1, 1]]
    assert np.isnan(found.share[2]).all() and np.isnan(found.share[:, 2]).all()


def test_patients_are_counted_once_a_level():
    rows = [{"id": str(n), "path": str(n), "patient": "ab"[n % 2], "split": "train", "is_gc": n // 3} for n in range(6)]
    counts = {(c.level, c.split): (c.images, c.patients)
              for c in level_counts(Manifest.from_rows(rows)) if c.finding == "is_gc"}  # fmt: skip
    assert counts[0, "train"] == counts[1, "train"] == (3, 2) and counts[0, "test"] == (0, 0)


def test_of_a_stream_the_decoded_sample_is_looked_at():
    splits = ["train", "test", "train", "val", "train"]
    rows = [{"id": f"i{n}", "path": f"i{n}", "split": split} for n, split in enumerate(splits)]
    images = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1).repeat(3, axis=3)
    decoded = {"train": (["i4", "i0"], [7, 2]), "val": (["i3"], [5]), "test": (["i1"], [1])}

    def dataset(split):
        ids, places = decoded[split]
        return FundusDataset(images, torch.zeros(len(ids), len(NAMES)), ids, np.array(places))

    seen, found, masks = decoded_rows(SimpleNamespace(manifest=Manifest.from_rows(rows), dataset=dataset))
    assert seen.ids == ["i0", "i1", "i3", "i4"] and masks is None
    assert found[:][:, 0, 0, 0].tolist() == [2, 1, 5, 7]


# -- pictures


def test_sheets_show_seeded_images_of_each_known_level():
    labels = labels_of(*[{"is_gc": 1 if n < 3 else 0} for n in range(40)], {"is_dme": 1})
    rows = sheet_rows(labels, seed=0, num_columns=8)
    assert [(row.title, row.num_images, len(row.rows)) for row in rows] == [
        ("Any image", 41, 8),
        ("Diabetic macular oedema: present", 1, 1),
        ("Glaucoma: absent", 37, 8),
        ("Glaucoma: present", 3, 3),
    ]
    assert rows[3].rows.tolist() == [0, 1, 2] and set(rows[2].rows) <= set(range(3, 40))
    named = sheet_rows(labels, 0, 8, sources=["a"] * 30 + ["b"] * (len(labels) - 30))
    assert [(row.title, row.num_images) for row in named[1:3]] == [("From a", 30), ("From b", len(labels) - 30)]
    assert (named[1].rows < 30).all() and (named[2].rows >= 30).all() and len(named) == len(rows) + 2
    again, other = sheet_rows(labels, 0, 8), sheet_rows(labels, 1, 8)
    assert again[2].rows.tolist() == rows[2].rows.tolist() != other[2].rows.tolist()
    only = sheet_rows(labels, 0, 8, among=np.arange(41) >= 30)
    assert [(row.title, row.num_images) for row in only][-1] == ("Glaucoma: absent", 10)


def test_an_outline_surrounds_the_mask_and_leaves_unknown_alone():
    mask = np.full((9, 9), 255, np.uint8)
    mask[2:7, 2:7] = 1
    drawn = outlined(np.zeros((9, 9, 3), np.uint8), mask, num_levels=3)
    line = (drawn == OUTLINES[0]).all(axis=2)
    assert line.sum() == 16 and line[2, 2:7].all() and not line[4, 4] and not drawn[~line].any()


def test_a_strip_keeps_its_scale():
    pictures = np.zeros((2, 128, 128, 3), np.uint8)
    wide = strip(pictures, num_columns=4)
    assert wide.shape == (128, 4 * 132 - 4, 3) and (wide[:, 264:] == 255).all() and strip(pictures).shape[1] == 260


def test_a_legend_has_room_for_long_names():
    names = ["background", *(f"a rather long name of level {n}" for n in range(1, 8))]
    sheet = np.zeros((100, 300, 3), np.uint8)
    drawn = with_legend(sheet, names)
    assert drawn.shape[0] > 100 + 7 * 20 and (drawn[:, -1] == 255)[100:].all() and not drawn[:100, :300].any()


@pytest.mark.parametrize("names", [(), ("is_gc",), NAMES], ids=["none", "one", "all"])
def test_no_label_of_the_matrix_is_cut_off(names):
    share = np.full((len(names), len(names)), 0.5)
    share[:1, -1:] = np.nan
    picture = cooccurrence_plot(Cooccurrence(tuple(names), share, np.full(share.shape, 1_234_567)))
    margin = np.concatenate(
        [picture[:8].ravel(), picture[-8:].ravel(), picture[:, :8].ravel(), picture[:, -8:].ravel()]
    )
    assert (margin == 255).all() and picture.min() < 60


# -- page


def test_the_page_escapes_whatever_comes_from_elsewhere():
    manifest = Manifest.from_rows([{"id": "a", "path": "a", "patient": "p", "split": "train", "source": "<s>"}])
    facts = [SourceFacts(name, f"<i>{name}</i>", "l", address, "", 0, {}) for name, address in ADDRESSES.items()]
    white = np.full((8, 8, 3), 255, dtype=np.uint8)
    text = page(Inspection('"><b>', 8, manifest, manifest, [("a\x00b\u202egpj.exe\udc80", "<script>")] * 2000, facts,
                           level_counts(manifest), None, "<u>", [], [], white, {"command": "</code>"}))  # fmt: skip
    for tag in ("<b>", "<i>", "<s>", "<u>", "<script>", "</code></code>"):
        assert tag not in text, tag
    assert "<td>javascript:alert(1)</td>" in text and "a\ufffdb\ufffdgpj.exe\ufffd" in text
    assert '<a href="https://a.b/?x=1&amp;y" rel="noreferrer">https://a.b/?x=1&amp;y</a>' in text
    assert "Not used: 2,000 files" in text and "… and 1,900 more" in text and '<td class="number">1</td>' in text
