"""Procedural fundus photographs with exact labels and masks: a pure function of (seed, index)."""

from datamodules.phantom.labels import (
    DME_GIVEN_GRADE,
    NOT_FUNDUS,
    PREVALENCE,
    UNREADABLE,
    draw_labels,
    labels_of,
    patient_of,
)
from datamodules.phantom.rendering import MASK_NAMES, VERSION, Phantom, render

__all__ = [
    "DME_GIVEN_GRADE",
    "MASK_NAMES",
    "NOT_FUNDUS",
    "PREVALENCE",
    "UNREADABLE",
    "VERSION",
    "Phantom",
    "draw_labels",
    "labels_of",
    "patient_of",
    "render",
]
