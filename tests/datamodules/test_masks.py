"""Masks on their way from files to batches, and rare levels drawn as often as others."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

from datamodules import phantom
from datamodules.balance import balanced_weights, repeated_chances
from datamodules.errors import UserError
from datamodules.findings import EYE_SIDE, NAMES
from datamodules.fundus import FundusDataModule
from datamodules.loader import EpochBatches
from datamodules.sources.chase_db1 import ChaseDB1
from datamodules.sources.phantom import PhantomSource


@pytest.fixture
def chase(tmp_path, photograph):
    """Eight photographs of four children; the mask is the left half of the frame. One has no mask file's place."""
    for number in range(1, 5):
        for eye in "LR":
            drawing = photograph(width=120, height=100, radius=46, seed=number)
            Image.fromarray(drawing).save(tmp_path / f"Image_{number:02d}{eye}.jpg", quality=95)
            mask = np.zeros((100, 120), np.uint8)
            mask[:, :60] = 255
            for observer in ("1stHO", "2ndHO"):
                Image.fromarray(mask).save(tmp_path / f"Image_{number:02d}{eye}_{observer}.png")
    return tmp_path


def module(root, tmp_path, **settings):
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}
    settings = {"image_size": 32, "batch_size": 2, "fractions": fractions, "seed": 3, **settings}
    found = FundusDataModule(ChaseDB1(root), cache_dir=tmp_path / "cache", **settings)
    found.prepare_data()
    found.setup()
    return found


def test_a_batch_holds_the_masks_of_its_images_mirrored_with_them(chase, tmp_path):
    data = module(chase, tmp_path)
    seen = set()
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        for batch in loader:
            assert batch["mask"].dtype == torch.uint8 and batch["mask"].shape == (2, 32, 32)
            flips = batch["flip"].tolist()
            batch = data.on_after_batch_transfer(batch, 0)
            assert batch["mask"].dtype == torch.int64
            for mask, image, flip in zip(batch["mask"], batch["image"], flips, strict=True):
                half = (mask.flip(-1) if flip else mask).float()
                assert half[12:20, 2:14].mean() == 1 and half[:, 18:].max() == 0
                assert mask[image.max(0).values == 0].max() <= 1
                seen.add(flip)
    assert seen == {True, False}


def test_an_image_without_a_mask_has_minus_one_everywhere(chase, tmp_path):
    for observer in ("1stHO", "2ndHO"):
        (chase / f"Image_01L_{observer}.png").unlink()
    source = ChaseDB1(chase, partial=True)
    data = FundusDataModule(source, image_size=32, batch_size=1, cache_dir=tmp_path / "cache")
    data.prepare_data()
    data.setup()
    masks = {}
    for split in set(data.manifest.splits):
        for batch in data._loader(data.dataset(split), training=False):
            masks[batch["id"][0]] = data.on_after_batch_transfer(batch, 0)["mask"]
    blank = next(mask for name, mask in masks.items() if "01L" in name)
    assert (blank == -1).all() and sum((mask >= 0).all().item() for mask in masks.values()) == 7


def test_a_mask_that_cannot_be_read_rejects_its_image(chase, tmp_path):
    (chase / "Image_02R_1stHO.png").write_bytes(b"no image")
    with refuses(ValueError, "1 of 8", "Image_02R.jpg", "mask", "data.max_rejected=1"):
        module(chase, tmp_path)
    assert "its mask" in module(chase, tmp_path, max_rejected=1).rejected[0][1]


def test_a_changed_mask_changes_the_fingerprint(chase, tmp_path):
    before = module(chase, tmp_path).fingerprint
    Image.new("L", (120, 100)).save(chase / "Image_03L_1stHO.png")
    assert module(chase, tmp_path).fingerprint != before


def test_phantoms_have_the_masks_that_are_asked_for_in_that_order(tmp_path):
    """Level 1 is what was named first, a later structure covers an earlier one, and the pictures stay as they were."""
    source = PhantomSource(num_images=6, seed=2, masks=["disc", "vessel"])
    assert source.mask_levels == ("background", "disc", "vessel")
    plain = PhantomSource(num_images=6, seed=2)
    assert plain.mask_levels == () and "mask" not in plain.index().table.column_names
    assert plain.identity() == f"phantom-v{phantom.VERSION}-seed2" != source.identity()
    assert source.identity() != PhantomSource(num_images=6, seed=2, masks=["vessel", "disc"]).identity()
    data = FundusDataModule(source, image_size=48, cache_dir=tmp_path, fractions={"train": 1, "val": 0, "test": 0})
    data.prepare_data()
    data.setup()
    found = data.dataset("train")
    for row, path in enumerate(data.manifest.paths):
        drawn = phantom.render(2, int(path), 48)
        np.testing.assert_array_equal(found.images[row], drawn.image)
        wanted = np.where(drawn.masks["vessel"], 2, drawn.masks["disc"])
        np.testing.assert_array_equal(found.masks[row][..., 0], wanted)
    assert set(np.unique(found.masks[:])) == {0, 1, 2}


def test_a_structure_that_phantoms_lack_or_that_is_named_twice_is_refused():
    with refuses(UserError, "data.masks", "'vessels'", "'vessel'"):
        PhantomSource(masks=["vessels"])
    with refuses(UserError, "data.masks", "'disc'", "twice"):
        PhantomSource(masks=["disc", "disc"])


def labels(**columns):
    found = np.full((len(next(iter(columns.values()))), len(NAMES)), -1, dtype=np.int64)
    for name, levels in columns.items():
        found[:, NAMES.index(name)] = levels
    return found


def test_each_level_has_the_same_chance_and_unknown_keeps_its_share():
    grades = np.array([0] * 60 + [2] * 15 + [4] * 5 + [-1] * 20)
    chances = balanced_weights(labels(dr_grade=grades), ["dr_grade"])
    assert chances.sum() == pytest.approx(1)
    for grade, share in ((0, 0.8 / 3), (2, 0.8 / 3), (4, 0.8 / 3), (-1, 0.2)):
        assert chances[grades == grade].sum() == pytest.approx(share)


def test_several_findings_leave_no_image_out():
    found = labels(dr_grade=[0, 0, 0, 4, -1], is_gc=[0, -1, 1, 0, 0])
    chances = balanced_weights(found, ["dr_grade", "is_gc"])
    one, other = (balanced_weights(found, [name]) for name in ("dr_grade", "is_gc"))
    np.testing.assert_allclose(chances, (one + other) / 2)
    assert (chances > 0).all()
    with refuses(ValueError, "data.balance", "is_amd", 5):
        balanced_weights(found, ["is_amd"])


def test_images_of_rare_levels_count_as_often_as_the_rarest_of_them():
    """Of 100 images 4 show glaucoma and 1 of these the worst grade; a level of a fourth or more is not rare."""
    found = labels(dr_grade=[0] * 99 + [4], is_gc=[0] * 96 + [1] * 4, is_amd=[-1] * 99 + [1])
    chances = repeated_chances(found, 0.25)
    np.testing.assert_allclose(chances / chances[0], [1.0] * 96 + [(0.25 / 0.04) ** 0.5] * 3 + [5.0])
    assert chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(repeated_chances(found, 0.01), 0.01)


def test_rare_levels_are_drawn_more_often_and_say_so(photographs, tmp_path):
    from datamodules.sources.csv import CsvSource

    names = sorted(path.name for path in photographs.glob("*.png"))
    lines = [f"{name},{int(place == 0)}" for place, name in enumerate(names)]
    (photographs / "t.csv").write_text("\n".join(["path,is_gc", *lines]) + "\n")
    fractions = {"train": 1.0, "val": 0.0, "test": 0.0}

    def share(repeats, **options):
        """Of the images of an epoch, those with glaucoma."""
        data = FundusDataModule(CsvSource(photographs, "t.csv"), 32, 4, tmp_path / "cache", fractions=fractions,
                                epoch_size=2000, **options)  # fmt: skip
        data.prepare_data()
        data.setup()
        plain = data.training_images
        assert repeats is None or data.repeat_rare(repeats) != bool(options)
        assert (data.training_images == plain) == (repeats is None or bool(options))
        shown = torch.cat([batch["labels"] for batch in data.train_dataloader()])
        return (shown[:, NAMES.index("is_gc")] == 1).double().mean().item()

    number = len(names)
    assert share(None) == pytest.approx(1 / number, abs=0.01)
    assert share(1.0) == pytest.approx(number**0.5 / (number - 1 + number**0.5), abs=0.05)
    assert share(1.0, balance=["is_gc"]) == pytest.approx(0.5, abs=0.05)


def test_drawn_epochs_have_the_chances_are_disjoint_over_ranks_and_come_again():
    chances = np.array([0.5, 0.3, 0.2, 0.0])
    kwargs = {"seed": 1, "shuffle": True, "flip": True, "drop_last": True, "epoch_size": 4000, "weights": chances}
    whole = EpochBatches(4, 4, **kwargs)
    rows, flips, _ = whole.order()
    np.testing.assert_allclose(np.bincount(rows, minlength=4) / 4000, chances, atol=0.03)
    assert 0.45 < flips.mean() < 0.55
    halves = [EpochBatches(4, 2, rank=rank, world_size=2, **kwargs) for rank in range(2)]
    together = [np.concatenate([a.rows, b.rows]) for a, b in zip(*halves, strict=True)]
    assert all((a == b.rows).all() for a, b in zip(together, whole, strict=True))
    whole.set_epoch(1)
    assert (whole.order()[0] != rows).any()


def test_balanced_training_mirrors_the_side_with_the_image(photographs, tmp_path):
    """Each picture that comes mirrored has the other side, also where rows are drawn by weight."""
    from datamodules.sources.csv import CsvSource

    lines = [f"{path.name},{int(path.stem.endswith('L'))}" for path in sorted(photographs.glob("*.png"))]
    (photographs / "t.csv").write_text("\n".join(["path,eye_side", *lines]) + "\n")
    data = FundusDataModule(CsvSource(photographs, "t.csv"), 32, 4, tmp_path / "cache", balance=["eye_side"])
    data.prepare_data()
    data.setup()
    for batch in data.train_dataloader():
        sides, flips = batch["labels"][:, EYE_SIDE].clone(), batch["flip"]
        after = data.on_after_batch_transfer(batch, 0)["labels"][:, EYE_SIDE]
        assert torch.equal(after, torch.where(flips, 1 - sides, sides))
    with refuses(ValueError, "'eye'", "dr_grade, is_amd"):
        FundusDataModule(CsvSource(photographs, "t.csv"), balance=["eye"])
