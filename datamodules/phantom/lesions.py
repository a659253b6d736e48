"""Which signs each finding paints, deep ones under the vessels and superficial ones over them."""

from datamodules.phantom import chorioretinal, diabetic, vascular
from datamodules.phantom.anatomy import Eye
from datamodules.phantom.canvas import Painting
from datamodules.phantom.streams import stream
from datamodules.phantom.vessels import Branches, Disease

SIGNS = (
    "microaneurysm",
    "haemorrhage",
    "hard_exudate",
    "cotton_wool",
    "irma",
    "new_vessel",
    "preretinal_haemorrhage",
    "laser_scar",
    "drusen",
    "geographic_atrophy",
    "subretinal_haemorrhage",
    "nerve_fibre_defect",
    "disc_haemorrhage",
    "epiretinal_membrane",
    "peripapillary_atrophy",
    "patchy_atrophy",
    "chorioretinal_lesion",
)
"""Mask names of the signs of disease."""


def vessel_disease(labels: dict[str, int], seed: int, index: int) -> Disease:
    """What the labels do to the vessels."""
    rng = stream(seed, index, "vessel disease")
    artery, vein, tortuosity, nicking, copper = rng.uniform(0.92, 1.08), 1.0, rng.uniform(0.7, 1.5), 0.15, 0.0
    beading, occluded = 0.0, ()
    quadrant, central = int(rng.integers(2)), rng.random() < 0.3
    if labels["dr_grade"] >= 3:
        vein, beading = rng.uniform(1.1, 1.25), rng.uniform(0.14, 0.26)
    if labels["is_htr"]:
        artery, nicking, copper = rng.uniform(0.55, 0.70), 1.0, rng.uniform(0.5, 0.9)
    if labels["is_rvo"]:
        occluded = vascular.occluded_trunks(quadrant, central)
        tortuosity *= 1.3
    if labels["is_em"]:
        tortuosity *= 1.4
    return Disease(artery, vein, tortuosity, nicking, copper, beading, occluded)


def paint_deep(painting: Painting, eye: Eye, labels: dict[str, int], seed: int, index: int) -> None:
    """Signs of choroid, pigment epithelium and nerve fibre layer, which lie under the vessels."""
    if labels["is_pm"]:
        chorioretinal.paint_pathologic_myopia(painting, eye, stream(seed, index, "pm"))
    if labels["is_crp"]:
        chorioretinal.paint_scars(painting, eye, stream(seed, index, "crp"))
    if labels["is_amd"]:
        chorioretinal.paint_macular_degeneration(painting, eye, stream(seed, index, "amd"))
    if labels["dr_grade"] == 4 and _proliferation(seed, index)[0]:
        diabetic.paint_laser(painting, eye, stream(seed, index, "laser"))
    if labels["is_gc"]:
        vascular.paint_fibre_defect(painting, eye, stream(seed, index, "fibre defect"))


def paint_superficial(
    painting: Painting,
    eye: Eye,
    labels: dict[str, int],
    trunks: Branches,
    disease: Disease,
    seed: int,
    index: int,
) -> None:
    """Signs within and before the retina, which hide the vessels."""
    grade = labels["dr_grade"]
    if grade:
        diabetic.paint_retinopathy(painting, eye, grade, seed, index)
    if labels["is_dme"]:
        diabetic.paint_macular_oedema(painting, stream(seed, index, "dme"))
    if labels["is_rvo"]:
        vascular.paint_occlusion(painting, eye, trunks, disease, stream(seed, index, "rvo"))
    if labels["is_htr"]:
        vascular.paint_hypertension(painting, eye, stream(seed, index, "htr"))
    if labels["is_gc"]:
        vascular.paint_disc_haemorrhage(painting, eye, 0.3, stream(seed, index, "disc haemorrhage"))
    if eye.swelling:
        vascular.paint_disc_haemorrhage(painting, eye, 0.8, stream(seed, index, "disc haemorrhage"))
    if labels["is_em"]:
        chorioretinal.paint_membrane(painting, eye, stream(seed, index, "em"))
    if grade == 4:
        bleeds = _proliferation(seed, index)[1]
        diabetic.paint_proliferation(painting, eye, bleeds, stream(seed, index, "proliferation"))


def _proliferation(seed: int, index: int) -> tuple[bool, bool]:
    """Whether a proliferative eye has been lasered, and whether its new vessels bleed: at least one of the two."""
    lasered, bleeds = stream(seed, index, "course").random(2) < (0.45, 0.50)
    return bool(lasered), bool(bleeds or not lasered)
