"""`+exp=segmenter_train`: learn masks from photographs, and say how well they are found, with intervals."""

from collections.abc import Mapping

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from callbacks.image_sheet import publish
from callbacks.mask_outlines import mask_sheet
from callbacks.run_record import RunRecord
from callbacks.segmentation import SegmentationEvaluation
from datamodules.errors import UserError, did_you_mean
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS
from datamodules.masks import NO_MASK, to_levels
from experiments.assembly import build_callbacks, build_segmenter, mask_levels
from experiments.lineage import trained_on
from experiments.loading import model_of, with_weights
from experiments.report import batch_text, heading, parameters_text, say
from experiments.session import Run
from experiments.trainers import build_trainer, final_metrics
from experiments.training import beginning, chosen_checkpoint, describe_data, fit, prepare_data
from lightning_modules.checkpoint import load_state, load_weights
from lightning_modules.initialisation import BUNDLED
from lightning_modules.segmenter import Segmenter

SHOWN = 4  # images of each kind on a sheet of the worst, the middle and the best


def segmenter_train(run: Run) -> dict[str, float]:
    """Train, take the best epoch, and measure it on the validation and the test split; returns the final metrics."""
    cfg, output_dir, checkpoint = run.cfg, run.output_dir, run.checkpoint
    callbacks = build_callbacks(cfg)
    if cfg.job.num_replicates < 0:
        raise UserError(f"job.num_replicates={cfg.job.num_replicates} must be at least 0; 0 gives no intervals.")
    cfg = OmegaConf.merge(cfg, {"model": {"mask_levels": levels_of(cfg)}})
    levels = list(cfg.model.mask_levels)
    check_monitor(cfg.job.monitor, levels)
    announce(run, cfg)
    weights = beginning(checkpoint or cfg.ckpt, run.config["model"]["init"])
    datamodule = prepare_data(run, weights)
    datamodule.setup("fit")
    describe_data(datamodule, output_dir)
    say(heading("segmenter"))
    say(masks_text(datamodule, levels))
    module = build_segmenter(cfg)
    if not checkpoint:
        say(begin(cfg, module))
    module.trained_on = trained_on(datamodule, weights)
    evaluation = SegmentationEvaluation(
        str(output_dir), levels, cfg.job.thin, cfg.job.num_replicates, cfg.seed, cfg.job.num_shown
    )
    monitor = cfg.job.monitor
    trainer = build_trainer(
        run, monitor, hparams(cfg), [monitor, "val/loss"], [evaluation, *callbacks],
        ends_with_training=False,
    )  # fmt: skip
    fit(trainer, module, datamodule, run)
    metrics = final_metrics(trainer)
    metrics |= measure(cfg, trainer, datamodule, evaluation)
    [record] = [callback for callback in trainer.callbacks if isinstance(callback, RunRecord)]
    record.finish_after(trainer, metrics)
    run.end(metrics)
    return metrics


def levels_of(cfg: DictConfig) -> list[str]:
    """Names of the levels of the data's masks, background first.

    Raises:
        UserError: data without masks; or `model.mask_levels` names others.
    """
    levels, named = mask_levels(cfg.data), cfg.model.mask_levels
    if named is not None and list(named) != levels:
        raise UserError(
            f"model.mask_levels is {list(named)}, and the masks of the data have the levels {levels}. Remedy: "
            "model.mask_levels=null takes those of the data."
        )
    return levels


def check_monitor(monitor: str, levels: list[str]) -> None:
    """See that the figure that picks the best epoch is one that is logged.

    Raises:
        UserError: it is not; names the nearest.
    """
    known = ["val/dice", "val/iou", "val/loss"]
    known += [f"val/dice_{level.replace(' ', '_')}" for level in levels[1:]] if len(levels) > 2 else []
    if monitor not in known:
        raise UserError(
            f"job.monitor={monitor} is not logged.{did_you_mean(monitor, known)} Known: {', '.join(known)}."
        )


def announce(run: Run, cfg: DictConfig) -> None:
    """Build what is going to be trained once, so that what cannot be is said before the data are read."""
    module = build_segmenter(cfg)
    say(heading("model"))
    start = run.checkpoint or cfg.ckpt
    say(f"weights of the segmenter: {start}" if start else begin(cfg, module))
    say(parameters_text({"network": module.network}))
    say("segmenter:    " + batch_text(cfg.data.batch_size, cfg.trainer, run.world_size,
                                      cfg.model.segmenter.learning_rate))  # fmt: skip


def begin(cfg: DictConfig, module: Segmenter) -> str:
    """Give the encoder the weights of `model/init`, or the whole network those of `ckpt`; returns the report.

    Raises:
        UserError: a checkpoint of other levels; ImageNet weights of an encoder that has none bundled.
    """
    if cfg.ckpt:
        state = load_state(cfg.ckpt)
        theirs, ours = list(model_of(state).get("mask_levels") or ()), list(cfg.model.mask_levels)
        if theirs != ours:
            raise UserError(
                f"ckpt={cfg.ckpt} finds the levels {theirs}, and the masks of the data have {ours}: its outputs would "
                "mean something else. Remedy: a checkpoint of a segmenter of these levels."
            )
        load_weights(module, state, f"ckpt={cfg.ckpt}")
        module.network.load_state_dict(module.measured.state_dict())
        return f"weights of the segmenter: {cfg.ckpt}"
    encoder = cfg.model.network.encoder
    is_imagenet = cfg.model.init._target_.endswith(".ImageNetInit")
    if is_imagenet and cfg.model.init.path is None and encoder != f"tu-{BUNDLED}":
        raise UserError(
            f"model/init=imagenet: of {encoder!r} no weights are bundled (of tu-{BUNDLED} they are), and none are "
            "downloaded. Remedy: model.init.path=<file of its weights>, or model/init=random."
        )
    report = instantiate(cfg.model.init)(module.network.encoder)
    if module.ema is not None:
        module.ema.network.load_state_dict(module.network.state_dict())
    return str(report).replace("weights of the backbone", "weights of the encoder")


def masks_text(datamodule: FundusDataModule, levels: list[str]) -> str:
    """How many images of each split have a mask, and how many of these show each level; warns of empty masks.

    Raises:
        UserError: no training image shows anything.
    """
    lines, shows = [], {}
    for split in SPLITS:
        if not len(datamodule.manifest.rows(split)):
            continue
        masks = datamodule.dataset(split).masks
        if masks is None:
            break
        seen = np.array([np.bincount(mask.ravel(), minlength=256) > 0 for mask in masks])
        has_mask, by_level = seen[:, :NO_MASK].any(axis=1), seen[:, 1 : len(levels)]
        shows[split] = int(by_level.any(axis=1).sum())
        counts = ", ".join(f"{level} in {n}" for level, n in zip(levels[1:], by_level.sum(axis=0), strict=True))
        lines.append(f"masks, {split + ':':<6} {has_mask.sum()} of {len(masks)} images have one; {counts}")
        if empty := int(has_mask.sum()) - shows[split]:
            lines.append(f"WARNING: {empty} masks of {split} have no foreground: if that is not meant, look at them")
    if not shows.get("train"):
        raise UserError(
            f"the masks of all {len(datamodule.dataset('train'))} training images are empty or absent: there is "
            f"nothing to learn of {', '.join(levels[1:])}. Remedy: look at the files of the masks."
        )
    return "\n".join(lines)


def measure(
    cfg: DictConfig, trainer: L.Trainer, datamodule: FundusDataModule, evaluation: SegmentationEvaluation
) -> dict[str, float]:
    """Segment the validation and the test split with the weights and threshold of the best epoch; write the figures.

    What is found on the validation split is not logged again: its curve has been drawn.
    """
    chosen = chosen_checkpoint(trainer, evaluation.output_dir)
    say(heading(f"evaluation of {chosen}"))
    module = with_weights(build_segmenter(cfg), chosen)
    evaluation.examine(dict(zip(datamodule.manifest.ids, datamodule.manifest.patients, strict=True)))
    loggers, trainer.loggers = trainer.loggers, []
    trainer.validate(module, datamodule=datamodule, verbose=False)
    trainer.loggers = loggers
    if len(datamodule.manifest.rows("test")):
        trainer.test(module, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        evaluation.write()
        for split in evaluation.rows:
            show(trainer, with_weights(build_segmenter(cfg), chosen), datamodule, evaluation, split)
        for logger in trainer.loggers:
            logger.finalize("success")
        say(evaluation.table())
        say(f"threshold of the probability, chosen on the validation split: {float(module.threshold):.2f}")
    return evaluation.figures()


def show(
    trainer: L.Trainer,
    module: Segmenter,
    datamodule: FundusDataModule,
    evaluation: SegmentationEvaluation,
    split: str,
) -> None:
    """A sheet of the images of a split with the lowest, the middle and the highest Dice, with both outlines."""
    dice = evaluation.dice(split)
    ordered = sorted(dice, key=dice.get)
    middle = max(0, len(ordered) // 2 - SHOWN // 2)
    chosen = list(dict.fromkeys([*ordered[:SHOWN], *ordered[middle : middle + SHOWN], *ordered[-SHOWN:]]))
    if not chosen:
        return
    dataset = datamodule.dataset(split)
    rows = [dataset.ids.index(name) for name in chosen]
    images, masks = dataset.images[np.array(rows)], torch.from_numpy(dataset.masks[np.array(rows)][..., 0])
    found = module.segment(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    captions = [f"{name} Dice {dice[name]:.2f}" for name in chosen]
    sheet = mask_sheet(images, to_levels(masks).numpy(), found, len(evaluation.levels), captions)
    publish(trainer, sheet, evaluation.output_dir / "samples" / f"{split}_masks.png", f"{split}/masks")


def hparams(cfg: DictConfig) -> Mapping[str, object]:
    """The settings that tell runs apart in TensorBoard."""
    network = {name: cfg.model.network[name] for name in ("architecture", "encoder")}
    data = {name: cfg.data[name] for name in ("image_size", "batch_size")}
    init = cfg.model.init._target_.rpartition(".")[2]
    return {**network, "init": init, **data, "learning_rate": cfg.model.segmenter.learning_rate, "seed": cfg.seed}
