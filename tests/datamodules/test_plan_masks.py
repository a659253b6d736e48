"""Plans with masks: warps keep what they should, passes are even, files are checked, masks reach the batches."""

import numpy as np
import pytest
import torch
from refusals import refuses

from datamodules.errors import UserError
from datamodules.findings import EYE_SIDE, NAMES
from datamodules.fundus import FundusDataModule
from datamodules.masks import encode_mask
from datamodules.plan.masks import MasksLaw, Warp
from datamodules.plan.rows import PlanDataModule
from datamodules.sources.phantom import PhantomSource
from datamodules.synthetic.plan import Chunk, Plan, PlanError, write_plan

NONE = {"rotation": 0, "scale": 1, "shift": 0, "bend": 0, "mirror": False}


@pytest.fixture
def data(tmp_path):
    return FundusDataModule(
        PhantomSource(12, masks=["vessel", "disc"]), 32, 4, tmp_path, fractions={"train": 1.0, "val": 0.0, "test": 0.0}
    )


def square(size=64, low=24, high=40, level=1):
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[low:high, low:high] = level
    return mask


def area(mask):
    return int((mask > 0).sum())


def test_nothing_asked_for_changes_nothing():
    mask = square()
    assert np.array_equal(Warp(**NONE)(mask, np.random.default_rng(0))[0], mask)


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_sizes_change_up_to_the_factor_and_no_further(factor):
    warp, stream = Warp(**{**NONE, "scale": factor}), np.random.default_rng(0)
    sides = np.array([area(warp(square(), stream)[0]) ** 0.5 / 16 for _ in range(300)])
    assert sides.min() >= 1 / factor - 0.1 and sides.max() <= factor + 0.1
    assert np.log(sides).mean() == pytest.approx(0, abs=0.08) and sides.max() > factor * 0.9


def test_a_turn_by_a_quarter_is_a_turn(monkeypatch):
    mask = square()
    mask[:20, 30:34] = 2
    warp = Warp(**{**NONE, "rotation": 90})
    quarter = warp(mask, type("Stream", (), {"random": lambda _: 1.0, "uniform": _uniform_at(90.0)})())[0]
    assert any(np.array_equal(quarter, np.rot90(mask, turns)) for turns in (1, 3))


def _uniform_at(angle):
    def uniform(self, low, high, size=None):
        return angle if (low, high) == (-90, 90) else np.zeros(size) if size is not None else 0.0

    return uniform


def test_levels_stay_levels_and_mirrors_are_told():
    mask = square(level=3)
    mask[30:34, 2:10] = 200
    stream = np.random.default_rng(1)
    found = [Warp()(mask, stream) for _ in range(200)]
    assert all(set(np.unique(warped)) <= {0, 3, 200} for warped, _ in found)
    assert 70 < sum(mirrored for _, mirrored in found) < 130
    only_mirror = Warp(**{**NONE, "mirror": True})
    for _ in range(10):
        warped, mirrored = only_mirror(mask, stream)
        assert np.array_equal(warped, mask[:, ::-1] if mirrored else mask)


def test_every_mask_comes_as_often_as_the_next_and_labels_come_along(data):
    law = MasksLaw(data, warp=None)
    [chunk] = law.chunks(24, 5, None)
    assert len(chunk.masks) == 24 and chunk.labels.shape == (24, len(NAMES))
    number = {mask: chunk.masks.count(mask) for mask in chunk.masks}
    dataset = data.dataset("train")
    shown = [row for row in range(12) if dataset.masks[row].any()]
    assert sum(number.values()) == 24 and max(number.values()) - min(number.values()) <= 1
    by_mask = {encode_mask(np.asarray(dataset.masks[row])[..., 0]): dataset.labels[row].tolist() for row in shown}
    assert all(by_mask[mask] == labels for mask, labels in zip(chunk.masks, chunk.labels.tolist(), strict=True))
    [again] = law.chunks(24, 5, None)
    assert again.masks == chunk.masks
    assert law.describe() == {"law": "masks", "data": data.fingerprint, "split": "train", "warp": None}


def test_mirrored_masks_have_the_other_side(data):
    [plain], [mirrored] = (
        MasksLaw(data, warp=warp).chunks(40, 0, None) for warp in (None, Warp(**{**NONE, "mirror": True}))
    )
    other = [a != b for a, b in zip(plain.masks, mirrored.masks, strict=True)]
    assert any(other) and not all(other)
    for changed, before, after in zip(other, plain.labels, mirrored.labels, strict=True):
        assert (before[EYE_SIDE] != after[EYE_SIDE]) == changed


def test_two_masks_in_one():
    class Data:
        fingerprint, image_size = "a", 64

        def dataset(self, split):
            masks = np.stack([square(low=4, high=12), square(low=50, high=60)])[..., None]
            return type("Dataset", (), {"masks": masks, "labels": torch.zeros(2, len(NAMES), dtype=torch.int64)})

    both = MasksLaw(Data(), warp=Warp(**NONE, second=1.0))
    [chunk] = both.chunks(20, 0, None)
    sizes = {len(np.unique(mask)) for mask in chunk.masks}
    assert sizes and {area(square(low=4, high=12)) + area(square(low=50, high=60))} < {
        area(mask) for mask in _decoded(chunk.masks)
    }


def _decoded(files):
    from datamodules.masks import decode_mask

    return [decode_mask(file) for file in files]


def test_masks_go_through_the_plan_to_the_batches(data, tmp_path):
    [chunk] = MasksLaw(data, warp=Warp()).chunks(10, 1, None)
    path = tmp_path / "plan.parquet"
    assert write_plan(path, iter([chunk]), 0) == 10
    plan = Plan(path)
    plan.check()
    assert plan.has_masks and plan.mask_size == 32
    batches = list(PlanDataModule(plan, [(0, 6), (6, 10)], lambda: [0, 1], 4).predict_dataloader())
    masks = torch.cat([batch["mask"] for batch in batches])
    assert masks.dtype == torch.int64 and np.array_equal(masks.numpy(), np.stack(_decoded(chunk.masks)))


def test_the_fingerprint_covers_masks_and_plans_without_are_as_before(tmp_path):
    labels = np.zeros((2, len(NAMES)), dtype=np.int8)
    prints = []
    for place, masks in enumerate((None, [encode_mask(square())] * 2, [encode_mask(square(low=20))] * 2)):
        path = tmp_path / f"{place}.parquet"
        write_plan(path, iter([Chunk(labels, None, masks)]), 0)
        prints.append(Plan(path).check())
        assert Plan(path).has_masks == (masks is not None)
    assert len(set(prints)) == 3
    write_plan(tmp_path / "old.parquet", iter([(labels, None)]), 0)
    assert Plan(tmp_path / "old.parquet").check() == prints[0]


def test_what_is_wrong_is_named(data, tmp_path):
    for name, value in {"rotation": 200, "scale": 0.5, "shift": -1, "second": 2, "bend": True}.items():
        with refuses(UserError, f"plan.warp.{name}", value):
            Warp(**{name: value})
    with refuses(PlanError, "plan.warp.shift"):
        Warp(**{**NONE, "shift": 1.0})(np.eye(64, dtype=np.uint8)[:, ::-1] * 0 + _corner(), _Always())
    labels = np.zeros((2, len(NAMES)), dtype=np.int8)
    path = tmp_path / "plan.parquet"
    for masks, facts in (
        ([encode_mask(square()), encode_mask(square(32, 4, 8))], ("row 1", "32 x 32", "64")),
        ([encode_mask(square()), b"no picture"], ("row 1", "mask")),
        ([encode_mask(square()), encode_mask(np.zeros((64, 64, 3), np.uint8))], ("row 1", "RGB")),
    ):
        write_plan(path, iter([Chunk(labels, None, masks)]), 0)
        with refuses(PlanError, path, *facts):
            Plan(path).check()
    plain = FundusDataModule(PhantomSource(4), 32, 4, tmp_path, fractions={"train": 1.0, "val": 0.0, "test": 0.0})
    with refuses(PlanError, "plan=masks", "data="):
        list(MasksLaw(plain).chunks(2, 0, None))


def _corner():
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[0, 0] = 1
    return mask


class _Always:
    """Shifts everything out of the picture."""

    def random(self):
        return 1.0

    def uniform(self, low, high, size=None):
        return np.full(size, high if size == 2 else 0.0) if size is not None else 0.0
