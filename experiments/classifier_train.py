"""`+exp=classifier_train`: learn findings from photographs, and say how well they are told, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from callbacks.diagnosis import Diagnosis
from callbacks.image_sheet import compose, publish
from callbacks.metrics.evaluation import MACRO_METRICS
from callbacks.mistakes_gallery import gallery
from callbacks.run_record import RunRecord
from datamodules.errors import UserError, did_you_mean
from datamodules.findings import FINDINGS, NAMES, NUM_LEVELS, check_name
from datamodules.fundus import FundusDataModule
from experiments.assembly import build_callbacks, build_classifier, columns_of
from experiments.lineage import trained_on
from experiments.loading import model_of, with_weights
from experiments.report import batch_text, heading, parameters_text, say
from experiments.session import Run
from experiments.trainers import build_trainer, final_metrics
from experiments.training import beginning, chosen_checkpoint, describe_data, fit, prepare_data
from lightning_modules.checkpoint import load_state, load_weights
from lightning_modules.classifier import Classifier


def classifier_train(run: Run) -> dict[str, float]:
    """Train, take the best epoch, and measure it on the validation and the test split; returns the final metrics."""
    cfg, output_dir, checkpoint = run.cfg, run.output_dir, run.checkpoint
    callbacks = build_callbacks(cfg)
    check_job(cfg.model.findings, cfg.job.num_replicates)
    announce(run)
    weights = beginning(checkpoint or cfg.ckpt, cfg.model.init)
    datamodule = prepare_data(run, weights)
    datamodule.setup("fit")
    describe_data(datamodule, output_dir)
    cfg = OmegaConf.merge(cfg, {"model": {"findings": chosen_findings(cfg.model.findings, datamodule)}})
    say(heading("classifier"))
    say(f"findings: {', '.join(cfg.model.findings)}")
    check_monitor(cfg.job.monitor, cfg.model.findings)
    module = build_classifier(cfg)
    if module.num_frozen:
        learnt = sum(p.numel() for p in module.network.parameters() if p.requires_grad)
        say(f"frozen: {module.num_frozen} layers; {learnt:,} parameters are learnt")
    if not checkpoint:
        say(take_over(module, cfg.ckpt) if cfg.ckpt else initialise(module, instantiate(cfg.model.init)))
    module.trained_on = trained_on(datamodule, weights)
    module.weigh(datamodule.training_labels())
    columns = columns_of(cfg.model.findings)
    diagnosis = Diagnosis(str(output_dir), columns, num_replicates=cfg.job.num_replicates, seed=cfg.seed)
    monitor = cfg.job.monitor
    trainer = build_trainer(
        run, monitor, hparams(run), [monitor, "val/loss"], [diagnosis, *callbacks],
        ends_with_training=False,
    )  # fmt: skip
    fit(trainer, module, datamodule, run)
    metrics = final_metrics(trainer)
    metrics |= measure(
        partial(build_classifier, cfg), trainer, datamodule, diagnosis, chosen_checkpoint(trainer, output_dir)
    )
    [record] = [callback for callback in trainer.callbacks if isinstance(callback, RunRecord)]
    record.finish_after(trainer, metrics)
    run.end(metrics)
    return metrics


def check_job(findings: Sequence[str] | None, num_replicates: int) -> None:
    """See that the settings of the job mean something, before anything is read.

    Raises:
        ValueError: an empty list of findings, a negative number of replicates.
    """
    if findings is not None and not len(findings):
        raise UserError("model.findings is empty: name one finding at least, or give null for all that vary.")
    if num_replicates < 0:
        raise UserError(f"job.num_replicates={num_replicates} must be at least 0; 0 gives no intervals.")


def check_monitor(monitor: str, findings: Sequence[str]) -> None:
    """See that the figure that picks the best epoch is one that is logged.

    Raises:
        ValueError: it is not; names the nearest.
    """
    graded = [name for name in findings if NUM_LEVELS[name] > 2]
    known = ["val/loss", *(f"val/{name}" for name in MACRO_METRICS), *(f"val/auroc_{name}" for name in findings)]
    known += [f"val/qwk_{name}" for name in graded] + [f"val/auroc_{name}_referable" for name in graded]
    if monitor not in known:
        hint = did_you_mean(monitor, known)
        raise UserError(f"job.monitor={monitor} is not logged.{hint} Known: {', '.join(known)}.")


def announce(run: Run) -> None:
    """Build what is going to be trained once, so that what cannot be is said before the data are read."""
    cfg = run.cfg
    for name in cfg.model.findings or ():
        check_name(name)
    backbone = instantiate(cfg.model.backbone)
    say(heading("model"))
    start = run.checkpoint or cfg.ckpt
    say(f"weights of backbone and heads: {start}" if start else str(instantiate(cfg.model.init)(backbone)))
    say(parameters_text({"backbone": backbone}))
    say("classifier:   " + batch_text(cfg.data.batch_size, cfg.trainer, run.world_size,
                                      cfg.model.classifier.learning_rate))  # fmt: skip


def chosen_findings(named: Sequence[str] | None, datamodule: FundusDataModule) -> list[str]:
    """The findings that are learnt: those that are named, or all that vary among the training images.

    Those are the images before `data.train_fraction`, so that runs on fewer labels learn and are measured on the same.

    Raises:
        ValueError: one that is named is unknown or the same in all training images; or none varies.
    """
    labels = datamodule.labels_of_all_training_patients().numpy()
    levels = {finding.name: sorted(set(labels[:, place].tolist()) - {-1}) for place, finding in enumerate(FINDINGS)}
    named = list(named or ())
    for name in named:
        if len(levels[name]) < 2:
            said = f"always {levels[name][0]}" if levels[name] else "unknown"
            raise UserError(
                f"model.findings names {name}, which is {said} in all {len(labels)} training images: there is nothing "
                "to learn. Leave it out, or add data that show it."
            )
    varying = [name for name in NAMES if len(levels[name]) > 1]
    if not varying:
        raise UserError("no finding varies among the training images: there is nothing to learn from their labels.")
    return named or varying


def take_over(module: Classifier, ckpt: str) -> str:
    """Give the whole network the measured weights of a checkpoint; returns the report.

    Raises:
        ValueError: a checkpoint of other findings.
    """
    state = load_state(ckpt)
    theirs = list(model_of(state).get("findings") or module.findings)
    if theirs != list(module.findings):
        raise UserError(
            f"ckpt={ckpt} tells {', '.join(theirs)}, and this run is to tell {', '.join(module.findings)}: its "
            f"heads would mean something else. Remedy: model.findings=[{','.join(theirs)}]; or its backbone alone, "
            f"by model/init=synthetic model.init.path={ckpt}."
        )
    load_weights(module, state, f"ckpt={ckpt}")
    module.network.load_state_dict(module.measured.state_dict())
    return f"weights of backbone and heads: {ckpt}"


def initialise(module: Classifier, init: Callable[[nn.Module], Any]) -> str:
    """Give the backbone the weights of an initialisation; returns its report."""
    report = init(module.network.backbone)
    if module.ema is not None:
        module.ema.network.load_state_dict(module.network.state_dict())
    return str(report)


def measure(
    build: Callable[[], Classifier],
    trainer: L.Trainer,
    datamodule: FundusDataModule,
    diagnosis: Diagnosis,
    chosen: Path,
) -> dict[str, float]:
    """Predict the validation and the test split with the weights of a checkpoint; write predictions and evaluation.

    What is found on the validation split is not logged again: its curve has been drawn.
    """
    say(heading(f"evaluation of {chosen}"))
    module = with_weights(build(), chosen)
    diagnosis.examine(dict(zip(datamodule.manifest.ids, datamodule.manifest.patients, strict=True)))
    loggers, trainer.loggers = trainer.loggers, []
    trainer.validate(module, datamodule=datamodule, verbose=False)
    trainer.loggers = loggers
    if len(datamodule.manifest.rows("test")):
        trainer.test(module, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        diagnosis.write(trainer)
        show_mistakes(trainer, with_weights(build(), chosen), datamodule, diagnosis)  # alone: none of it lies elsewhere
        for logger in trainer.loggers:
            logger.finalize("success")
        say(diagnosis.table())
    return diagnosis.figures()


def show_mistakes(trainer: L.Trainer, module: Classifier, datamodule: FundusDataModule, diagnosis: Diagnosis) -> None:
    """A sheet for each finding of the surest mistakes on the last split that was examined, and where was looked."""
    split, found = list(diagnosis.predictions.items())[-1]
    dataset = datamodule.dataset(split)
    rows = {name: row for row, name in enumerate(dataset.ids)}
    first = {int(place): index for index, place in reversed(list(enumerate(module.network.heads.finding.tolist())))}
    for place, name in enumerate(module.findings):
        sheet = gallery(
            module.measured.eval(), lambda key: dataset.images[rows[key]], found, diagnosis.columns, first[place], name
        )
        if sheet is not None:
            path = diagnosis.output_dir / "samples" / f"{split}_mistakes_{name}.png"
            publish(trainer, compose(*sheet), path, f"{split}/mistakes_{name}")


def hparams(run: Run) -> Mapping[str, object]:
    """The settings that tell runs apart in TensorBoard."""
    cfg = run.cfg
    settings = cfg.model.classifier
    return {
        "backbone": cfg.model.backbone.get("name", cfg.model.backbone._target_.rpartition(".")[2]),
        "init": cfg.model.init._target_.rpartition(".")[2],
        "image_size": cfg.data.image_size,
        "batch_size": cfg.data.batch_size,
        "learning_rate": settings.learning_rate,
        "layer_decay": settings.layer_decay,
        "num_frozen": settings.num_frozen,
        "seed": cfg.seed,
    }
