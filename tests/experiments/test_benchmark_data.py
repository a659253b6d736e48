"""The benchmark of reading: what it counts, and that reading from the cache is as fast as is promised."""

import json

import pytest
from test_smoke import SMALL

FIGURES = ("image_folder_ms", "first_pass_ms", "cached_epoch_ms", "first_pass_ratio", "cached_epoch_ratio")


def test_the_figures_are_those_of_the_turns(command, here, photographs):
    words = ["data.image_size=32", "job.num_turns=3", "job.num_epochs=4", "output_dir=out"]
    result = command("+exp=benchmark_data", *words, *photographs)
    assert result.code == 0, result.err
    found = json.loads((here / "out/benchmark_data.json").read_text())
    assert found["num_images"] == 8 and len(found["memory_mib"]) == 4
    turns = {name: found[name]["turns"] for name in FIGURES}
    for name in FIGURES:
        assert len(turns[name]) == 3 and 0 < found[name]["min"] <= found[name]["median"] <= found[name]["max"]
    for theirs, first, cached, ratio, cached_ratio in zip(*turns.values(), strict=True):
        assert ratio == pytest.approx(theirs / first) and cached_ratio == pytest.approx(theirs / cached)
    assert found["memory_growth_mib"] == found["memory_mib"][-1] - found["memory_mib"][0]
    assert "cached epoch, times faster" in result.out and sorted(p.name for p in here.iterdir()) == ["out"]


def test_a_source_without_files_is_refused(command, here):
    result = command("+exp=benchmark_data", *SMALL["benchmark_data"], "data=phantom", "output_dir=out")
    assert result.code != 0 and "ImageFolder reads files. Remedy: data=folder" in result.err
    assert json.loads((here / "out/record.json").read_text())["status"] == "failed"


@pytest.mark.slow
@pytest.mark.timed
def test_full_size_photographs_are_read_three_times_faster_and_again_twenty_times(command, here, shared_data):
    """In the best of five turns, for whatever else runs on the machine; memory is flat over 20 epochs."""
    root = shared_data / "rahim-dr-fullsize"
    result = command("+exp=benchmark_data", f"data.root={root}", "data.image_size=256", "output_dir=out")
    assert result.code == 0, result.err
    found = json.loads((here / "out/benchmark_data.json").read_text())
    assert found["first_pass_ratio"]["max"] >= 3 and found["cached_epoch_ratio"]["max"] >= 20
    assert len(found["memory_mib"]) == 20 and found["memory_mib"][-1] - found["memory_mib"][4] < 1
