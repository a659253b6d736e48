"""Which direction of a logged metric is better: declared where a metric is defined, and listed here."""

from callbacks import reconstructions
from callbacks.metrics import coverage, diversity, evaluation, frechet, kernel, mask_shapes, probe, segmentation
from callbacks.metrics.estimate import Better
from datamodules.errors import UserError
from datamodules.findings import NAMES
from lightning_modules import adversarial, autoencoder, latent_diffusion

OF_FINDINGS = {**evaluation.BETTER, **probe.BETTER}  # auroc, auroc_<finding>, auroc_<finding>_referable
WITH_NAMES = {  # fid, fd_<extractor>, dice, dice_<level of a mask>
    **frechet.BETTER,
    **kernel.BETTER,
    **coverage.BETTER,
    **segmentation.BETTER,
    **mask_shapes.BETTER,
}
LOSSES = (*autoencoder.LOSSES, *adversarial.LOSSES, *latent_diffusion.LOSSES)
ENDINGS = ("", *(f"_{name}{part}" for name in NAMES for part in ("", "_referable")))
KNOWN: dict[str, Better] = {
    **reconstructions.BETTER,
    **diversity.BETTER,
    **dict.fromkeys(LOSSES, "min"),
    "mask_dice": segmentation.BETTER["dice"],
    **{f"{metric}{ending}": better for metric, better in OF_FINDINGS.items() for ending in ENDINGS},
}


def direction_of(metric: str, key: str, remedy: str) -> Better:
    """Whether "max" or "min" of a metric is better. Of anything that ends in `loss` it is "min".

    Args:
        metric: a log key, `stage/quantity`.
        key: where the user named it, for the message.
        remedy: how the user can say which direction is better, for the message.

    Raises:
        ValueError: no metric of this name declares it.
    """
    quantity = metric.rpartition("/")[2]
    if quantity == "loss" or quantity.endswith("_loss"):
        return "min"
    better = KNOWN.get(quantity) or WITH_NAMES.get(quantity.partition("_")[0])
    if better is None:
        raise UserError(f"{key}={metric}: it is not known whether more or less of it is better. Remedy: {remedy}.")
    return better
