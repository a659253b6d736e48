"""A disk that is full at any write ends a job in one sentence, and loses nothing: with room the same command completes.

The disks are real ones of a few KB to MB, of fractions of what the job takes, so that each write in turn fills them.
"""

import re
import threading

import pytest
from accidents import ask
from refusals import refuses
from synthetic_sets import write_set
from tensorboard.compat.tensorflow_stub.io import gfile
from tiny_runs import DATA, DDPM_TRAIN, TRAINER
from torch.utils.tensorboard import SummaryWriter

from callbacks.disk import CUT_SHORT
from experiments.disk_full import refused
from experiments.errors import report_errors
from experiments.known_warnings import filter_known_warnings
from experiments.runs import FOLDER_VARIABLE

ANNOTATE = ["+exp=annotate", "trainer.accelerator=cpu", "job.num_replicates=20"]
EXPORT = ["+exp=export_model", "job.license=cc0-1.0"]
FRACTIONS = [0.0, 0.3, 0.6, 0.9]
HERE = ["output_dir=out", "cache_dir=cache"]
SHARES = [*DDPM_TRAIN, *HERE, "checkpoint_async=true", "strategy=fsdp2", "checkpoint_every_n_steps=2"]
FILES = [*DDPM_TRAIN, *HERE, "checkpoint_every_n_steps=1", "checkpoint_keep_last=3", "checkpoint_keep_best=2"]
CLASSIFIER = ["+exp=classifier_train", *DATA, *TRAINER, *HERE, "model/backbone=resnet10t", "model/init=random",
              "model.findings=[is_gc]", "job.num_replicates=20", "model.classifier.warmup_steps=1"]  # fmt: skip


def check(trials: list[dict]) -> None:
    assert any(trial["code"] for trial in trials)
    for trial in trials:
        room, said = trial["room"], trial["said"]
        if trial["code"]:
            assert trial["code"] == 1 and "Traceback" not in said, f"{room} bytes: {said}"
            told = re.findall(r"error: .*\bdisk\b.*\bfull\b.*", said)
            assert len(told) == said.count("error: ") == 1, f"{room} bytes: {said}"
            assert re.search(r"'\S+'", told[0]) and re.search("Free space|Remedy: ", told[0]), told
        assert trial["again"] == 0, f"{room} bytes, then again: {trial['said_again']}"
        assert not trial["left"] and not trial["differing"], f"{room} bytes: {trial['left']} {trial['differing']}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(FILES, id="files"),
        pytest.param(SHARES, id="shares meanwhile", marks=pytest.mark.full),
        pytest.param(CLASSIFIER, id="classifier", marks=pytest.mark.full),
    ],
)
def test_training(words):
    check(ask(words, ["out/metrics.csv", "out/manifest.parquet"], fractions=FRACTIONS))


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_inspection():
    check(ask(["+exp=inspect_data", *DATA, *HERE], ["out/*.png", "out/manifest.parquet"], fractions=FRACTIONS))


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_synthesis(generator):
    words = ["+exp=synthesize", "num_images=12", "job.images_per_shard=5", "trainer.accelerator=cpu",
             f"ckpt={generator}", "output_dir=out"]  # fmt: skip
    check(ask(words, ["out/data/*", "out/checksums/*", "out/plan.parquet", "out/recipe.json"], fractions=FRACTIONS))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("words", "same"),
    [
        pytest.param(["+exp=dataset_export", "job.format=folder"], ["out/**/*.png", "out/*.csv"], id="export"),
        pytest.param(["+exp=dataset_card"], ["set/README.md", "set/samples/*"], id="card", marks=pytest.mark.full),
        pytest.param(ANNOTATE, ["set/annotations/*.parquet"], id="annotation", marks=pytest.mark.full),
    ],
)
def test_of_a_set(words, same, annotator, tmp_path):
    more = [f"job.annotators=[{annotator}]"] if "+exp=annotate" in words else []
    copies = {"set": str(write_set(tmp_path / "set"))}
    check(ask([*words, *more, "job.dataset=set", "output_dir=out"], same, copies, fractions=FRACTIONS))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("words", "same"),
    [
        pytest.param(["+exp=gather_checkpoint"], ["out/last.ckpt"], id="gathered"),
        pytest.param(
            EXPORT, ["out/model/**/*.safetensors", "out/model/**/*.json"], id="exported", marks=pytest.mark.full
        ),
    ],
)
def test_of_a_checkpoint(words, same, generator):
    check(ask([*words, f"ckpt={generator}", "output_dir=out"], same, fractions=FRACTIONS))


def raising(error):
    raise error


@pytest.mark.parametrize(
    ("error", "begins", "has"),
    [
        (OSError(28, "No space left on device", "a/last.ckpt"), "the disk is full", "'a/last.ckpt'. Free space"),
        (OSError(122, "Disk quota exceeded", "a/b"), "the disk is full", "a larger quota"),
        (OSError(27, "File too large", "a/b"), "a file is larger than may be written", "ulimit -f"),
        (OSError(30, "Read-only file system", "a/b"), "the disk is read-only", "output_dir="),
        (OSError(5, "Input/output error", "a/b"), "the system refused", "'a/b'. Mend that"),
        (RuntimeError(f"[enforce fail at inline_container.cc:672] . {CUT_SHORT[0]} 64 vs 0"), "the disk is full",
         "for a file of the run in "),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full",
         "for a file of the run in "),
    ],
)  # fmt: skip
def test_what_the_disk_refuses_is_a_sentence(error, begins, has, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert report_errors(raising, error) == 1
    said = capfd.readouterr().err
    assert said.startswith(f"error: {begins}: ") and has in said and "resume=auto" in said and "Traceback" not in said
    assert said.startswith(f"error: {refused(error)}\n")


def test_where_the_traceback_finds_no_room_either_there_is_none(tmp_path, monkeypatch, capfd):
    import experiments.errors as mistakes

    error = OSError(28, "No space left on device", "a")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(mistakes, "write_text", lambda path, text: raising(error))
    assert report_errors(raising, error) == 1
    assert "Traceback" not in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_of_threads_all_is_told_but_what_tensorboard_raises_again(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda died: told.append(str(died.exc_value)))
    filter_known_warnings()
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(gfile.LocalFileSystem, "_write", lambda *arguments: raising(full))
    with refuses(OSError, full):
        SummaryWriter(tmp_path).flush()
    other = threading.Thread(target=raising, args=[ValueError("ours")])
    other.start()
    other.join()
    assert told == ["ours"]
