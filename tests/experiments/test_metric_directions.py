"""Which direction of a metric is better: as it declares, and never a guess."""

import numpy as np
import pytest
from refusals import refuses

from callbacks.agreement import LabelAgreement
from callbacks.metrics.evaluation import BETTER, evaluate
from datamodules.errors import UserError
from datamodules.findings import NAMES
from experiments import segmenter_train
from experiments.classifier_train import check_monitor
from experiments.metric_directions import direction_of

MORE = ("auroc", "aupr", "partial_auroc", "sensitivity_at_95_specificity", "accuracy", "precision", "recall",
        "specificity", "f1", "kappa", "qwk", "psnr", "ssim", "agreement", "agreement_real", "agreement_is_gc",
        "agreement_real_dr_grade", "coverage_efficientnet_lite0", "auroc_is_gc", "auroc_dr_grade_referable",
        "qwk_dr_grade", "dice", "iou", "cldice", "dice_optic_disc")  # fmt: skip
LESS = ("ece", "brier", "fd_efficientnet_lite0", "fd_x", "kd_x", "fid", "kid", "loss", "guide", "reconstruction", "kl",
        "perceptual", "adversarial", "discriminator", "dice_loss", "hd95", "hd95_percent",
        "accuracy_loss", "ece_is_amd", "ms_ssim", "wasserstein_area_optic_disc")  # fmt: skip
UNKNOWN = ("assd", "hausdorff", "mmd", "distance", "lossless", "feceal", "auroc_error",
           "accuracy_distance", "precision_95", "epoch", "lr-AdamW", "logits_real", "")  # fmt: skip


def direction(metric):
    return direction_of(metric, "job.metric", "job.mode=max or job.mode=min")


@pytest.mark.parametrize("stage", ["val/", "test/", "train/", ""])
def test_known_metrics_have_the_direction_that_they_declare(stage):
    assert {metric: direction(stage + metric) for metric in MORE} == dict.fromkeys(MORE, "max")
    assert {metric: direction(stage + metric) for metric in LESS} == dict.fromkeys(LESS, "min")


@pytest.mark.parametrize("metric", UNKNOWN)
def test_an_unknown_metric_is_no_guess_but_an_error_that_names_it_and_the_key(metric):
    with pytest.raises(ValueError) as error:
        direction(f"val/{metric}")
    assert f"job.metric=val/{metric}:" in str(error.value) and "job.mode=max or job.mode=min" in str(error.value)


def test_every_metric_of_an_evaluation_declares_it():
    labels = np.array([[0, 0], [1, 2], [1, 1], [0, 4]])
    chances = {"is_gc": np.full((4, 2), 0.5), "dr_grade": np.full((4, 5), 0.2)}
    found = evaluate(labels, chances, {"is_gc": 2, "dr_grade": 5}, list("abcd"), num_replicates=0)
    assert {metric for metrics in found.values() for metric in metrics} == BETTER.keys()


def test_everything_that_a_classifier_can_be_chosen_by_has_one():
    with refuses(ValueError, "job.monitor=none", "val/auroc") as error:
        check_monitor("none", NAMES)
    known = str(error.value).partition("Known: ")[2].rstrip(".").split(", ")
    assert len(known) > 20 and {direction(key) for key in known} == {"max", "min"}


def test_everything_that_a_segmenter_can_be_chosen_by_has_one():
    levels = ["background", "optic disc", "cup"]
    for key in ("val/dice", "val/iou", "val/loss", "val/dice_optic_disc", "val/dice_cup"):
        segmenter_train.check_monitor(key, levels)
        assert direction(key) == ("min" if key == "val/loss" else "max")
    with refuses(UserError, "job.monitor=val/dice_vessel", "val/dice_optic_disc"):
        segmenter_train.check_monitor("val/dice_vessel", levels)


def test_a_callback_declares_that_of_what_it_measures():
    assert LabelAgreement.mode == direction(LabelAgreement.tag) == "max"
