"""SynFundus-1M, on a miniature in its layout."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from refusals import refuses

from datamodules.images import ImageError
from datamodules.manifest import ManifestError
from datamodules.sources.synfundus1m import SynFundus1M

OPTIONS = Path(__file__).parents[2] / "experiments" / "conf" / "data" / "synfundus1m.yaml"


def test_synfundus1m_indexes_what_is_on_disk(synfundus, caplog, labels_of):
    caplog.set_level(logging.INFO)
    manifest = SynFundus1M(synfundus).index()
    assert manifest.paths == ["Part0/0.png", "Part0/1.jpg", "Part1/50000.png", "Part19/1000001.png"]
    labels = labels_of(manifest)
    assert labels["Part1/50000.png"] == {"dr_grade": 2, "is_amd": 1, "is_fundus": 0, "eye_side": 1}
    readable = {"is_fundus": 1, "is_macular_readable": 0}
    assert labels["Part0/1.jpg"] == {"dr_grade": 4, "is_amd": 1, **readable, "eye_side": 1}
    assert len(set(manifest.patients)) == 4
    assert "4 of 6 images are on disk, 2 are absent" in caplog.text


def test_synfundus1m_conditions_are_numbered_by_row(synfundus, labels_of):
    for part in ("Part1", "Part19"):
        shutil.rmtree(synfundus / part)
    manifest = SynFundus1M(synfundus, labels="condition").index()
    assert labels_of(manifest) == {
        "Part0/0.png": {"dr_grade": 1, "is_amd": 1, "eye_side": 1},
        "Part0/1.jpg": {"dr_grade": 2, "is_amd": 0, "eye_side": 0},
    }


def test_synfundus1m_keeps_an_image_that_is_annotated_as_no_fundus(synfundus):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
        synfundus / "Part1/50000.png"
    )
    source = SynFundus1M(synfundus)
    assert source.read("Part1/50000.png", 16).min() > 0
    (synfundus / "Part0/0.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError):
        source.read("Part0/0.png", 16)


def test_synfundus1m_says_what_is_missing(synfundus):
    with refuses(ValueError, "labels", "'annotations'", "annotation, condition"):
        SynFundus1M(synfundus, labels="annotations")
    (synfundus / "SynFundus-1M_annotation_15w.csv").write_text("idx,dr_grade\n0,1\n")
    with refuses(ValueError, "SynFundus-1M_annotation.csv, SynFundus-1M_annotation_15w.csv", "data.table="):
        SynFundus1M(synfundus).index()
    assert len(SynFundus1M(synfundus, table="SynFundus-1M_annotation_15w.csv").index()) == 1
    for path in synfundus.glob("*.csv"):
        path.unlink()
    with refuses(FileNotFoundError, "no SynFundus-1M_annotation*.csv", "data.root", "'Part0'"):
        SynFundus1M(synfundus).index()


def test_synfundus1m_refuses_a_table_whose_rows_cannot_be_numbered(synfundus):
    with refuses(ManifestError, "gen_cond.csv", "3 rows", "'idx'", "image 1000001"):
        SynFundus1M(synfundus, labels="condition").index()
    for part in ("Part1", "Part19"):
        shutil.rmtree(synfundus / part)
    (synfundus / "SynFundus-1M_gen_cond.csv").write_text("dr_grade\n1\n")
    with refuses(ManifestError, "gen_cond.csv", "1 rows", "'idx'", "image 1 "):
        SynFundus1M(synfundus, labels="condition").index()


def test_synfundus1m_table_may_be_named_on_the_command_line(synfundus, labels_of):
    (synfundus / "part.csv").write_text("idx,dr_grade\n1,2\n")
    for name in ("part.csv", str(synfundus / "part.csv")):
        cfg = OmegaConf.create(
            {"data": {**OmegaConf.to_container(OmegaConf.load(OPTIONS)), "root": str(synfundus), "table": name}}
        )
        assert labels_of(instantiate(cfg.data.source).index()) == {"Part0/1.jpg": {"dr_grade": 2}}
    with refuses(FileNotFoundError, "gone.csv", "data.root"):
        SynFundus1M(synfundus, table="gone.csv").index()
