"""`mix=synthetic`: so many real and so many synthetic images in each batch, in an order that can go on anywhere."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from paired_sets import add_masks
from refusals import refuses
from synthetic_sets import write_set
from torchvision.transforms import v2

from datamodules.annotated_shards import SyntheticSource
from datamodules.findings import NAMES
from datamodules.manifest import Manifest
from datamodules.mixed import MixedDataModule, num_real_of
from datamodules.sources.csv import CsvSource
from datamodules.sources.folder import FolderSource

SPLIT = {"train": 0.5, "val": 0.25, "test": 0.25}
GRADE = NAMES.index("dr_grade")


class WithMasks(FolderSource):
    """A folder of photographs, each of them its own mask."""

    mask_levels = ("background", "all")

    def _index(self):
        table = super()._index().table
        return Manifest.from_table(table.append_column("mask", table.column("path")))

    def read_mask(self, path, mask, image_size):
        return np.ones((image_size, image_size), dtype=np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("generated") / "set", num_images=25, num_shards=3, group_rows=3, side=24)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(drawn_once):
    rows = [f"{file.name},{file.name[:3]},{number % 5}" for number, file in enumerate(sorted(drawn_once.glob("*.png")))]
    (drawn_once / "grades.csv").write_text("\n".join(["path,patient,dr_grade", *rows]) + "\n")
    yield drawn_once
    (drawn_once / "grades.csv").unlink()


@pytest.fixture
def mix(root, cache, folder):
    """`mix(**options)` gives a datamodule that is set up: 24 photographs and 25 synthetic images."""

    def build(rank=0, world_size=1, source=None, **options) -> MixedDataModule:
        settings = {
            "image_size": 16,
            "batch_size": 6,
            "cache_dir": cache,
            "cache_workers": 1,
            "fractions": SPLIT,
            "seed": 3,
        }
        settings |= {"num_lanes": 2, "window_groups": 2, "ratio": 2.0, "synthetic": SyntheticSource(root)}
        data = MixedDataModule(source=source or CsvSource(folder, "grades.csv"), **settings | options)
        data.prepare_data()
        data.setup()
        if world_size > 1:
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, overfit_batches=0)
        return data

    return build


def with_masks(root, levels):
    """A set of 25 images whose masks show nothing."""
    write_set(root, num_images=25, num_shards=3, group_rows=3, side=24)
    return add_masks(root, [np.zeros((24, 24), dtype=np.uint8)] * 25, levels)


def epochs(data, numbers=(0,)):
    """The batches of these epochs."""
    loader = data.train_dataloader()
    found = []
    for number in numbers:
        loader.set_epoch(number)
        found += list(loader)
    return found


def same(ours, theirs):
    return len(ours) == len(theirs) and all(
        a["id"] == b["id"] and all(torch.equal(a[key], b[key]) for key in a if key != "id")
        for a, b in zip(ours, theirs, strict=True)
    )


def test_what_a_batch_holds(mix, root):
    data = mix()
    real, synthetic = set(data.manifest.select("train").ids), set(SyntheticSource(root).index().ids)
    batches = epochs(data)
    assert len(batches) == len(real) // 2
    for batch in batches:
        assert batch["image"].shape == (6, 3, 16, 16) and batch["labels"].shape == (6, 16) and len(batch["id"]) == 6
        assert set(batch["id"][:2]) <= real and set(batch["id"][2:]) <= synthetic
    seen = [name for batch in batches for name in batch["id"][:2]]
    assert len(set(seen)) == len(seen), "an epoch is once through the real images"
    passed = [name for batch in batches for name in batch["id"][2:]][:24]
    assert len(set(passed)) == 24, "a pass over the set shows none twice"


def test_images_and_labels_belong_to_their_ids(mix, root):
    data = mix(flip=False)
    labels = dict(zip(data.manifest.ids, data.manifest.labels.tolist(), strict=True))
    index = SyntheticSource(root).index()
    labels |= dict(zip(index.ids, index.labels.tolist(), strict=True))
    train = data.dataset("train")
    real = dict(zip(train.ids, train.images[:], strict=True))
    source = SyntheticSource(root)
    paths = dict(zip(index.ids, index.paths, strict=True))
    for batch in epochs(data, (0, 1)):
        for name, image, row in zip(batch["id"], batch["image"], batch["labels"].tolist(), strict=True):
            wanted = real[name] if name in real else source.read(paths[name], 16)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), wanted) and row == labels[name]


def test_the_set_goes_on_where_the_epoch_before_left_it(mix):
    """An epoch begins behind the images of the one before, not with the first again."""
    seen = [name for batch in epochs(mix(), range(6)) for name in batch["id"][2:]]
    counts = np.unique(seen, return_counts=True)[1]
    assert len(counts) == 25 and counts.sum() == 8 * 24 and counts.max() == 8, "eight passes, one left out in each"


@pytest.mark.parametrize("done", [1, 3])
def test_resumed_in_mid_epoch(mix, done):
    options = {"augment": [v2.RandomRotation(10)], "balance": ["dr_grade"], "epoch_size": 36}
    whole = epochs(mix(**options), (0, 1, 2))
    assert len(whole) == 18 and "draw" in whole[0] and any(batch["flip"][2:].any() for batch in whole)
    data = mix(**options)
    loader = data.train_dataloader()
    loader.set_epoch(1)
    before = [batch for _, batch in zip(range(done), loader, strict=False)]
    state = data.state_dict()
    resumed = mix(**options)
    resumed.load_state_dict(state)
    loader = resumed.train_dataloader()
    after = list(loader)
    loader.set_epoch(2)
    assert same(before + after + list(loader), whole[6:])


def test_workers_change_nothing(mix):
    assert same(epochs(mix(num_workers=2), (0, 1)), epochs(mix(), (0, 1)))


def test_ranks_share_both(mix):
    """Of two ranks each has other images, in an epoch of the real and in a pass of the synthetic ones."""
    each = [epochs(mix(rank=rank, world_size=2, ratio=1.0, batch_size=2)) for rank in (0, 1)]
    assert len(each[0]) == len(each[1]) > 4
    for place in (0, 1):
        seen = [batch["id"][place] for batches in each for batch in batches[:8]]
        assert len(set(seen)) == len(seen)
    alone = epochs(mix(ratio=1.0, batch_size=4))
    theirs = [[*a["id"][:1], *b["id"][:1]] for a, b in zip(*each, strict=True)]
    assert [batch["id"][:2] for batch in alone] == theirs, "the real images of a step are those of any number of ranks"


def test_epoch_size_counts_both(mix):
    assert len(epochs(mix(epoch_size=30))) == 5
    with refuses(ValueError, "data.epoch_size", 5, "batch of 6"):
        mix(epoch_size=5).train_dataloader()


def test_what_is_measured_is_real(mix, tmp_path):
    data = mix()
    plain = instantiate({"_target_": "datamodules.fundus.FundusDataModule"}, source=data.source, image_size=16,
                        cache_dir=data.cache_dir, fractions=SPLIT, cache_workers=1, batch_size=6, seed=3)  # fmt: skip
    plain.prepare_data()
    plain.setup()
    for split in ("train", "val", "test"):
        assert np.array_equal(data.images(split)[:], plain.images(split)[:])
        assert torch.equal(data.labels(split), plain.labels(split))
    assert same(list(data.val_dataloader()), list(plain.val_dataloader()))
    assert same(list(data.test_dataloader()), list(plain.test_dataloader()))
    assert data.manifest.fingerprint == plain.manifest.fingerprint
    assert data.split_fingerprint == plain.split_fingerprint, "runs with and without can be compared"
    data.write_index(tmp_path)
    assert Manifest.read(tmp_path / "manifest.parquet").fingerprint == plain.manifest.fingerprint
    assert len(Manifest.read(tmp_path / "manifest_synthetic.parquet")) == 25
    summary = data.preview()
    assert summary["splits"]["synthetic"]["num_images"] == 25 and summary["num_images"] == 24
    assert "2 real and 4 synthetic" in summary["source"]
    assert summary["splits"] == data.describe()["splits"]


def test_training_labels_are_as_often_as_training_shows_them(mix, root):
    data = mix(ratio=0.5)
    real, both = data.labels("train"), data.training_labels()
    assert torch.equal(both[: len(real)], real) and len(both) == len(real) + round(len(real) / 2)
    known = {tuple(row) for row in SyntheticSource(root).index().labels.tolist()}
    assert {tuple(row) for row in both[len(real) :].tolist()} <= known
    assert len(mix(ratio=5.0).training_labels()) == 6 * len(real), "more than the set has"
    assert torch.equal(data.labels_of_all_training_patients(), both)
    part = mix(train_fraction=0.5)
    assert len(part.labels("train")) < len(real) < len(part.labels_of_all_training_patients())


def test_fingerprints_cover_both(mix, tmp_path):
    data = mix()
    other = mix(synthetic=SyntheticSource(write_set(tmp_path / "other", 25, 3, 3, 24, seed=1)))
    assert mix().fingerprint == data.fingerprint != other.fingerprint
    assert mix().training_images == data.training_images
    assert len({each.training_images for each in (data, other, mix(ratio=1.0), mix(flip=False))}) == 4
    given = iter(loader := data.train_dataloader())
    next(given)
    changed = mix(ratio=1.0)
    changed.load_state_dict({"train_loader": loader.state_dict()})
    with refuses(ValueError, "checkpoint", "data.epoch_size", 48, 30):
        changed.train_dataloader()


def test_masks_of_synthetic_images_are_unknown(mix, folder):
    data = mix(source=WithMasks(folder))
    for batch in epochs(data):
        batch = data.on_after_batch_transfer(batch, 0)
        assert (batch["mask"][:2] == 1).all() and (batch["mask"][2:] == -1).all() and batch["mask"].shape == (6, 16, 16)


def test_transforms_are_drawn_apart(mix):
    """The photograph of row 3 and the synthetic image of row 3 are not turned alike."""
    draws = torch.cat([batch["draw"] for batch in epochs(mix(augment=[v2.RandomRotation(10)]))])
    assert len(draws.unique()) == len(draws) and (draws >= 0).all()


def test_overfitting_sees_the_same_batches(mix):
    data = mix()
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, overfit_batches=2)
    batches = epochs(data, (0, 1))
    assert same(batches[: len(batches) // 2], batches[len(batches) // 2 :]) and not batches[0]["flip"].any()


@pytest.mark.parametrize("batch_size", [2, 3, 16, 37])
def test_how_many_are_real(batch_size):
    for ratio in (0.25, 0.5, 1.0, 1.5, 3.0):
        wanted = batch_size / (1 + ratio)
        if 0.5 <= wanted < batch_size - 0.5:
            assert abs(num_real_of(batch_size, ratio) - wanted) <= 0.5
        else:
            with refuses(ValueError, f"data.batch_size={batch_size}", f"data.synthetic.ratio={ratio}") as caught:
                num_real_of(batch_size, ratio)
            least = int(str(caught.value).partition("Remedy: data.batch_size=")[2].split()[0])
            assert 0 < num_real_of(least, ratio) < least


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan")])
def test_ratios_that_mean_nothing(ratio):
    with refuses(ValueError, "data.synthetic.ratio", ratio, "mix=none"):
        num_real_of(8, ratio)


def test_too_few_photographs(mix):
    with refuses(ValueError, "40 real images", "16 real", "data.batch_size", "data.synthetic.ratio"):
        mix(batch_size=48, ratio=0.2).train_dataloader()


def test_latents_are_refused(mix):
    with refuses(ValueError, "mix=synthetic", "job.cache_latents=false"):
        mix().check_latents()


def test_the_option(root, folder, composed):
    words = ["+exp=classifier_train", "data=csv", f"data.root={folder}", "data.table=grades.csv", "mix=synthetic",
             f"data.synthetic.root={root}", "data.synthetic.ratio=3.0", "data.batch_size=8"]  # fmt: skip
    data = instantiate(composed(*words, "data.train_fraction=0.5").data.module)
    assert isinstance(data, MixedDataModule) and (data.num_real, data.num_synthetic) == (2, 6)
    assert data.train_fraction == 0.5 and isinstance(data.source, CsvSource)
    cfg = composed("+exp=classifier_train", "data=shards", f"data.root={root}", *words[4:])
    with refuses(Exception, "mix=synthetic", "num_reference", "data.synthetic.root"):
        instantiate(cfg.data.module)


def test_without_real_images_a_batch_is_synthetic_and_the_rest_stays_real(mix, root):
    data, both = mix(ratio=float("inf")), mix()
    synthetic = set(SyntheticSource(root).index().ids)
    batches = epochs(data)
    assert len(batches) == 25 // 6 and all(set(batch["id"]) <= synthetic for batch in batches)
    assert len(epochs(mix(ratio=float("inf"), epoch_size=60))) == 10
    assert data.split_fingerprint == both.split_fingerprint
    assert same(list(data.val_dataloader()), list(both.val_dataloader()))
    assert len(data.training_labels()) == 25
    [(_, real), _] = data.parts()
    assert not len(real.rows("train")) and len(real.rows("test")) == len(data.manifest.rows("test")) > 0


def test_a_part_of_the_set_is_streamed(mix, root):
    data = mix(synthetic=SyntheticSource(root, num_images=7, seed=5), ratio=5.0)
    wanted = set(SyntheticSource(root, num_images=7, seed=5).index().ids)
    seen = {name for batch in epochs(data, range(4)) for name in batch["id"][1:]}
    assert seen == wanted and len(seen) == 7


def test_masks_of_another_kind_or_none_are_refused(mix, folder, root, tmp_path):
    labelled = with_masks(tmp_path / "levels", ("background", "other"))
    with refuses(ValueError, "other", "background, all", tmp_path / "levels"):
        mix(source=WithMasks(folder), synthetic=SyntheticSource(labelled))
    with refuses(ValueError, root, "background, all"):
        mix(source=WithMasks(folder), ratio=float("inf"))


@pytest.mark.parametrize("ratio", [2.0, float("inf")])
def test_masks_of_a_set_are_learnt(mix, folder, root, tmp_path, ratio):
    labelled = with_masks(tmp_path / "levels", WithMasks.mask_levels)
    data = mix(source=WithMasks(folder), synthetic=SyntheticSource(labelled), ratio=ratio)
    for batch in epochs(data):
        batch = data.on_after_batch_transfer(batch, 0)
        wanted = [name in set(data.manifest.ids) for name in batch["id"]]
        found = [bool((mask == 1).all()) for mask in batch["mask"]]
        assert found == wanted and ((batch["mask"] == 0) | (batch["mask"] == 1)).all()
