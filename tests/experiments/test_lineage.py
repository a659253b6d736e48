"""Patients who trained a generator are refused as test patients downstream, also through weights of several runs."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses
from synthetic_sets import write_set
from tiny_runs import AUTOENCODER, DIFFUSION, TRAINER, UNET

from datamodules.annotated_shards import SyntheticSource
from datamodules.fundus import FundusDataModule
from datamodules.mixed import MixedDataModule
from datamodules.sources.csv import CsvSource
from datamodules.streaming import ShardDataModule
from datamodules.synthetic.lineage import patient_codes, write_trained_on
from experiments.classifier_train import beginning
from experiments.lineage import check_test_patients, how_many_trained, trained_on
from lightning_modules.checkpoint import TRAINED_ON_KEY
from lightning_modules.classifier import Classifier

SPLIT = {"train": 0.5, "val": 0.25, "test": 0.25}
ITS, ANOTHER = 4, 6  # seeds: of the generator's split, and of one that tests on its training patients
NUM_PATIENTS = 12
CLASSIFIER = ["+exp=classifier_train", *TRAINER, "trainer.max_epochs=1", "model/backbone=resnet10t",
              "model/init=random", "model.classifier.warmup_steps=1", "job.num_replicates=5", "data.image_size=32",
              "data.batch_size=4", "data.cache_workers=1"]  # fmt: skip


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A table of 24 small pictures of 12 patients, every second with glaucoma; is_fundus 0 has them read whole."""
    folder = tmp_path_factory.mktemp("clinic")
    stream, rows = np.random.default_rng(0), ["path,patient,is_fundus,is_gc"]
    for number in range(2 * NUM_PATIENTS):
        Image.fromarray(stream.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,P{number // 2:02d},0,{number % 2}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def photographs(clinic, tmp_path):
    """`photographs(seed)` is the data of the clinic, split by that seed; nothing is read yet."""

    def build(seed, kind=FundusDataModule, **options):
        return kind(source=CsvSource(clinic, "t.csv"), image_size=16, batch_size=4, cache_dir=tmp_path / "cache",
                    fractions=SPLIT, seed=seed, cache_workers=1, **options)  # fmt: skip

    return build


@pytest.fixture
def generated(tmp_path, photographs):
    """A set whose generator was trained on the clinic's training patients of seed ITS."""
    root = write_set(tmp_path / "set", num_images=16, group_rows=3, side=16)
    write_trained_on(root / "trained_on.parquet", ready(photographs(ITS))["patients"])
    return root


def ready(data, *ancestors):
    """What training on data says of itself."""
    data.prepare_data()
    data.setup()
    return trained_on(data, *ancestors)


def saved(path, facts):
    torch.save({"state_dict": {}} | ({} if facts is None else {TRAINED_ON_KEY: facts}), path)
    return str(path)


def test_how_many_patients_of_a_split_trained_a_checkpoint(photographs, tmp_path):
    """All of its own training patients, none of the others; of another split those whom both trainings share."""
    data = photographs(ITS)
    path = saved(tmp_path / "its.ckpt", ready(data))
    num_train = data.manifest.select("train").num_patients
    assert how_many_trained(data, ("train",), path) == (num_train, num_train)
    assert how_many_trained(data, ("val", "test"), path) == (0, NUM_PATIENTS - num_train)
    whole = photographs(ITS)
    whole.fractions = {"train": 1.0, "val": 0.0, "test": 0.0}
    assert how_many_trained(whole, ("train", "val", "test"), path) == (num_train, NUM_PATIENTS)
    assert how_many_trained(data, ("train",), saved(tmp_path / "silent.ckpt", None)) == (None, num_train)


def of_set(root, tmp_path, **options):
    return ShardDataModule(SyntheticSource(root), 16, 4, tmp_path / "cache", fractions={"train": 0.8, "val": 0.2},
                           cache_workers=1, **options)  # fmt: skip


def test_what_a_training_says_of_itself(photographs):
    data = photographs(ITS)
    facts = ready(data)
    train = data.manifest.select("train")
    assert facts["patients"].dtype == torch.int64 and facts.keys() == {"patients", "labels", "counts", "own_patients"}
    codes = patient_codes(train, data.source)
    assert facts["patients"].numpy().view(np.uint64).tolist() == codes.tolist() and len(codes) == 5
    assert facts["labels"].dtype == torch.int8 and facts["counts"].tolist() == [5, 5]
    assert sorted(map(tuple, facts["labels"].tolist())) == sorted(set(map(tuple, train.labels.tolist())))
    fewer = ready(photographs(ITS, train_fraction=0.4))
    assert set(fewer["patients"].tolist()) < set(facts["patients"].tolist()), "of the patients in use alone"


def test_own_patients_are_told_apart_from_those_of_the_weights(photographs, tmp_path):
    before = ready(photographs(ITS))
    facts = ready(photographs(ITS, train_fraction=0.4), saved(tmp_path / "before.ckpt", before))
    assert before["own_patients"] == len(before["patients"]) == len(facts["patients"]) == 5
    assert facts["own_patients"] == 2 and facts["counts"].sum() == 4


def test_a_planted_leak_is_refused(photographs, generated, tmp_path):
    """Mixed with real images of a split that tests on patients whom the generator knows."""
    mixed = {"kind": MixedDataModule, "synthetic": SyntheticSource(generated)}
    check_test_patients(photographs(ITS, **mixed))
    with refuses(ValueError, "3 test patients", f"generator of '{generated}'") as said:
        check_test_patients(photographs(ANOTHER, **mixed))
    train = set(photographs(ITS).preview() and names(photographs(ITS), "train"))
    leaked = sorted(train & set(names(photographs(ANOTHER), "test")))
    assert leaked and str(said.value).startswith(f"{len(leaked)} of 3 test patients")
    assert any(f"(one is {name!r})" in str(said.value) for name in leaked)
    assert "the same data.fractions and seed" in str(said.value)
    check_test_patients(of_set(generated, tmp_path)), "a set alone has no patients to test on"


def names(data, split):
    [(_, manifest)] = data.parts()
    return manifest.select(split).patients


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder of a run"])
def test_a_leak_through_weights_is_refused(photographs, generated, tmp_path, as_folder):
    """A classifier of synthetic images alone, fine-tuned on real ones, twice over."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = saved(tmp_path / "run/checkpoints/best.ckpt", ready(of_set(generated, tmp_path)))
    path = tmp_path / "run" if as_folder else path
    check_test_patients(photographs(ITS), path)
    with refuses(ValueError, "3 test patients", f"'{tmp_path / 'run/checkpoints/best.ckpt'}'"):
        check_test_patients(photographs(ANOTHER), path)
    again = saved(tmp_path / "second.ckpt", ready(photographs(ITS), path))
    with refuses(ValueError, "3 test patients", f"'{again}'"):
        check_test_patients(photographs(ANOTHER), again)
    check_test_patients(photographs(ANOTHER), None, "")


def test_the_next_generation_carries_on(photographs, generated, tmp_path):
    """Patients of the set, of the weights and of the data together."""
    rows = {"labels": torch.zeros(1, 16, dtype=torch.int8), "counts": torch.tensor([1])}
    other = saved(tmp_path / "a.ckpt", {"patients": torch.tensor([-5]), **rows})
    facts = ready(of_set(generated, tmp_path), other)
    of_generator = set(ready(photographs(ITS))["patients"].tolist())
    assert set(facts["patients"].tolist()) == of_generator | {-5}
    mixed = ready(photographs(ITS, kind=MixedDataModule, synthetic=SyntheticSource(generated)), other)
    assert set(mixed["patients"].tolist()) == of_generator | {-5}
    assert mixed["counts"].sum() == 20, "ten photographs, and as many synthetic images"


def test_validation_patients_are_a_note(photographs, tmp_path, capsys):
    data = photographs(ITS)
    val = patient_codes(data.parts()[0][1].select("val"), data.source)
    path = saved(tmp_path / "a.ckpt", {"patients": torch.from_numpy(val.view(np.int64))})
    check_test_patients(data, path)
    said = capsys.readouterr().out
    assert f"{len(val)} of {len(val)} val patients" in said and "will be better than on strangers" in said


def test_what_does_not_tell_is_said_and_handed_on(photographs, generated, tmp_path, capsys):
    (generated / "trained_on.parquet").unlink()
    old, foreign = saved(tmp_path / "old.ckpt", None), tmp_path / "foreign.pth"
    torch.save({"model": {"weight": torch.zeros(1)}}, foreign)
    facts = ready(of_set(generated, tmp_path), old, foreign, tmp_path / "absent.ckpt")
    said = capsys.readouterr().out
    for name in ("set", "old.ckpt", "foreign.pth", "absent.ckpt"):
        assert f"{name}' does not say whose photographs trained it" in said
    assert len(facts["unknown"]) == 4 and len(facts["patients"]) == 0
    later = ready(photographs(ITS), saved(tmp_path / "new.ckpt", facts))
    assert later["unknown"] == facts["unknown"] and len(later["patients"]) == 5
    write_trained_on(generated / "trained_on.parquet", later["patients"], later["unknown"])
    assert ready(of_set(generated, tmp_path))["unknown"] == facts["unknown"]
    capsys.readouterr()
    check_test_patients(photographs(ITS), old)
    ready(photographs(ITS))
    assert "does not say" not in capsys.readouterr().out


def test_where_training_begins(composed):
    words = ["+exp=classifier_train", "model/backbone=timm", "model.backbone.name=resnet10t"]
    assert beginning(None, composed(*words, "model/init=random").model.init) is None
    assert beginning("", composed(*words, "model/init=imagenet", "model.init.path=a.pth").model.init) is None
    started = composed(*words, "model/init=synthetic", "model.init.path=runs/a").model.init
    assert beginning("", started) == "runs/a" and beginning("last.ckpt", started) == "last.ckpt"


def test_the_command_refuses_a_leak_before_anything_is_read(command, here, clinic, generated):
    """From the generator's photographs to a fine-tuned classifier, by weights and by mixing."""
    real = [f"data.root={clinic}", "data.table=t.csv", "data=csv", "data.fractions={train:0.5,val:0.25,test:0.25}"]
    result = command(*CLASSIFIER, "data=synthetic", f"data.root={generated}", "data.num_workers=0",
                     "data.fractions={train:0.5,val:0.5}", "output_dir=pretrained")  # fmt: skip
    assert result.code == 0, result.err
    by_weights = ["model/init=synthetic", "model.init.path=pretrained"]
    by_mixing = ["mix=synthetic", f"data.synthetic.root={generated}", "data.num_workers=0"]
    for words in (by_weights, by_mixing, [*by_weights, *by_mixing]):
        result = command(*CLASSIFIER, *real, *words, f"seed={ANOTHER}", "output_dir=refused")
        assert result.code == 1 and "of 3 test patients" in result.err, result.err
        assert "caching csv" not in result.out + result.err and not (here / "refused" / "checkpoints").exists()
    result = command(*CLASSIFIER, *real, *by_weights, *by_mixing, f"seed={ITS}", "output_dir=allowed")
    assert result.code == 0, result.err
    assert "2 real and 2 synthetic" in result.out
    kept = torch.load("allowed/checkpoints/best.ckpt", weights_only=True)[TRAINED_ON_KEY]
    assert len(kept["patients"]) == 5 and "unknown" not in kept


@pytest.mark.slow
def test_a_mixed_classifier_is_resumed_bit_for_bit(command, here, clinic, generated, monkeypatch):
    words = [*CLASSIFIER, "data=csv", f"data.root={clinic}", "data.table=t.csv", "mix=synthetic", f"seed={ITS}",
             f"data.synthetic.root={generated}", "data.num_workers=0", "checkpoint_every_n_steps=3", "augment=geometry",
             "trainer.max_epochs=2", "data.fractions={train:0.5,val:0.25,test:0.25}"]  # fmt: skip
    assert command(*words, "output_dir=whole").code == 0
    step = Classifier.training_step

    def die(self, batch, batch_idx):
        if self.global_step == 8:  # of the second epoch's five the fourth
            raise SystemError("the machine went away")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", die)
        assert "went away" in command(*words, "output_dir=resumed").err
    assert torch.load("resumed/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert command(*words, "output_dir=resumed", "resume=auto").code == 0
    ours, theirs = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("resumed", "whole"))
    assert ours["global_step"] == theirs["global_step"] == 10
    assert all(torch.equal(tensor, theirs["state_dict"][key]) for key, tensor in ours["state_dict"].items())


@pytest.mark.slow
def test_a_generator_of_mixed_images(command, here, clinic, generated):
    words = ["+exp=ddpm_train", *AUTOENCODER, *UNET, *DIFFUSION, *TRAINER, "data=csv", f"data.root={clinic}",
             "data.table=t.csv", "mix=synthetic", f"data.synthetic.root={generated}", "data.num_workers=0",
             "data.image_size=16", "data.batch_size=4", "autoencoder.batch_size=4", "data.epoch_size=null",
             "data.cache_workers=1", "~callbacks.frechet",
             "~callbacks.agreement", "~callbacks.sample_grid", f"seed={ITS}",
             "data.fractions={train:0.5,val:0.25,test:0.25}", "output_dir=out"]  # fmt: skip
    refused = command(*words)
    assert refused.code == 1 and "job.cache_latents=false" in refused.err
    result = command(*words, "job.cache_latents=false")
    assert result.code == 0, result.err
    kept = torch.load("out/checkpoints/last.ckpt", weights_only=True)[TRAINED_ON_KEY]
    assert len(kept["patients"]) == 5 and kept["counts"].sum() == 20


@pytest.mark.parametrize("facts", ["text", {"patients": "all"}, {"patients": torch.zeros(2)}])
def test_a_checkpoint_whose_word_on_its_patients_is_damaged_is_not_one_that_does_not_tell(photographs, tmp_path, facts):
    with refuses(ValueError, tmp_path / "a.ckpt", TRAINED_ON_KEY):
        check_test_patients(photographs(ITS), saved(tmp_path / "a.ckpt", facts))
