"""Jobs that train nothing, killed or told twice to stop at random moments: the same command completes them, alike.

No half file ever has a final name, and nothing temporary stays; tests/experiments/test_synthesize_killed.py is of
synthesis, tests/experiments/test_interruption.py of training.
"""

import signal

import pytest
from accidents import ask
from synthetic_sets import write_set

KILL, TERM, INT = int(signal.SIGKILL), int(signal.SIGTERM), int(signal.SIGINT)
ANNOTATE = ["+exp=annotate", "trainer.accelerator=cpu", "job.num_replicates=20"]
EXPORT = ["+exp=export_model", "job.license=cc0-1.0"]
SIGNALS = [[KILL], [KILL], [KILL], [KILL], [TERM, TERM], [INT, INT], [TERM, INT]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def check(found: dict) -> None:
    assert found["again"] == 0, found["said_again"]
    assert not found["left"] and not found["differing"], (found["left"], found["differing"])
    assert any(found["codes"]), "no signal came while a run was at work"
    for code, said in zip(found["codes"], found["said"], strict=True):
        assert code in (0, -KILL, -TERM, -INT, 128 + TERM, 128 + INT) and "Error executing job" not in said, said


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
    check(ask([*words, *more, "job.dataset=set", "output_dir=out"], same, copies, signals=SIGNALS))


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
    found = ask([*words, f"ckpt={generator}", "output_dir=out"], same, signals=SIGNALS)
    if "+exp=export_model" in words and 0 in found["codes"]:  # a run that came to its end is not done over
        assert "is there already" in found["said_again"]
        found["again"] = 0
    check(found)
