"""Features that are kept on disk: what is read back is what was written, or is refused with what to do."""

import errno

import numpy as np
import pytest
import torch
from refusals import refuses

from callbacks import feature_sets
from callbacks.feature_sets import FeatureSet, load, rows_kept, save
from callbacks.metrics.frechet import Gaussian

IDENTITY = {"data": "a", "num_real": 6}


@pytest.fixture
def path(tmp_path):
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    save(tmp_path / "features.npz", FeatureSet(6, rows, Gaussian.from_features(rows)), IDENTITY)
    return tmp_path / "features.npz"


def test_what_was_kept_comes_back(path):
    found = load(path, IDENTITY)
    assert found.num_images == 6 and found.rows.shape == (6, 4) and found.gaussian.factor.shape == (4, 4)


def test_those_who_ask_for_more_rows_than_there_are_share_what_is_kept():
    """Few images are kept whole whoever asks: the distance, with 2000 rows, and the agreement, with all."""
    assert rows_kept(1000, 1280, 2000) == rows_kept(1000, 1280, 1000) == rows_kept(1000, 1280, 10) == 1000
    assert (rows_kept(9000, 1280, 2000), rows_kept(9000, 1280, 9000)) == (2000, 9000)


OTHER_SHAPES = {
    "rows": [np.zeros((6, 3)), np.zeros(4), np.zeros((0, 4)), np.zeros((7, 4)), np.full((6, 4), np.nan), np.array("x")],
    "mean": [np.zeros(5), np.zeros((1, 4)), np.array([0, 0, 0, np.inf])],
    "factor": [np.zeros((4, 5)), np.zeros(4)],
    "identity": [np.array("[]"), np.array("{"), np.array(3)],
    "num_images": [np.array("many"), np.array(-1)],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, many in OTHER_SHAPES.items() for value in many])
def test_other_shapes_are_refused(path, name, value):
    saved = dict(np.load(path))
    np.savez(path, **{**saved, name: value})
    with refuses(ValueError, path, "whole", "delete"):
        load(path, IDENTITY)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:100], lambda b: b[:-1], lambda b: b[:300] + b"X" + b[301:]]
)
def test_damaged_files_are_refused(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    with refuses(ValueError, path, "whole", "delete"):
        load(path, IDENTITY)


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "away"), MemoryError()])
def test_an_error_of_the_machine_is_none_of_the_file(path, monkeypatch, error):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(feature_sets.np, "load", refuse)
    with pytest.raises(type(error)):
        load(path, IDENTITY)
