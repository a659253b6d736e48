"""Every experiment runs from end to end, small: `pytest -m smoke`."""

import json
import re

import pytest
from paired_sets import write_pairs
from tiny_runs import AUTOENCODER, CALLBACKS, DATA, DIFFUSION, GAN, TRAINER, UNET

from experiments.composition import experiments

LARGE = [  # presets for GPUs, with their discriminator, in the precision that this machine has
    "trainer.precision=32-true",
    "trainer.devices=1",
    "data.num_workers=0",
    "autoencoder.batch_size=8",
    "autoencoder.module.disc_start=2",
    "autoencoder.module.discriminator.channels=16",
    "autoencoder.module.discriminator.num_downsamplings=1",
    "model.autoencoder.layers_per_block=1",
    "model.denoiser.layers_per_block=1",
    "callbacks.frechet.every_n_epochs=2",  # as the presets, more than 1
    "checkpoint_every_n_steps=3",
]
PLAIN = [  # without what the plain recipes leave out
    word for word in [*DATA, *AUTOENCODER, *UNET, *DIFFUSION, *CALLBACKS]
    if not word.startswith(("model.guide.", "callbacks.agreement."))
]  # fmt: skip
CLASSIFIER = ["model.classifier.warmup_steps=1", "job.num_replicates=20"]
SMALL_NETWORK = [  # instead of the presets' large ones, in the precision that this machine has
    "data=phantom",
    "data.num_workers=0",
    "model/backbone=resnet10t",
    "model/init=random",
    "trainer.precision=32-true",
    "trainer.devices=1",
]
SEGMENTER = [
    "model.network.encoder=tu-resnet10t",
    "+model.network.options.decoder_channels=[8,8,8,8,8]",
    "model/init=random",
    "model.segmenter.warmup_steps=1",
    "job.num_replicates=20",
]
STUDIED = [*SEGMENTER, "data.image_size=16", "data.batch_size=4", "data.epoch_size=8", "trainer.max_epochs=1",
           "data.cache_workers=1", "trainer.accelerator=cpu"]  # fmt: skip
LATENT_DIFFUSION = [*DATA, *AUTOENCODER, *UNET, *DIFFUSION]
SMALL = {
    "annotate": ["trainer.accelerator=cpu", "job.num_replicates=20"],
    "benchmark": [*LATENT_DIFFUSION, "trainer.accelerator=cpu", "job.num_steps=3", "job.num_turns=2"],
    "benchmark_data": ["data.image_size=32", "job.num_turns=1", "job.num_epochs=2"],
    "classifier_train": [*DATA, *CLASSIFIER, *TRAINER],
    "classifier_train_cnn": [*DATA, *CLASSIFIER, *TRAINER, *SMALL_NETWORK, "model.classifier.warmup_epochs=0"],
    "classifier_train_retfound": [*DATA, *CLASSIFIER, *TRAINER, *SMALL_NETWORK, "model.classifier.warmup_epochs=0"],
    "compare_runs": ["job.metric=val/auroc"],
    "pretrain_transfer": [
        "job.backbones=[resnet10t]",
        "job.inits=[random,synthetic]",
        "job.budgets=[1.0]",
        "job.seeds=[0]",
        f"job.common=[{','.join(map(repr, [*DATA, *CLASSIFIER, *TRAINER]))}]",
        "job.finetune=['data=phantom','model.findings=[eye_side]']",
        "cache_dir=cache",
    ],
    "ddpm_train": [*LATENT_DIFFUSION, *CALLBACKS, *TRAINER],
    "ddpm_train_plain": [*PLAIN, *TRAINER],
    "ddpm_train_diffusers": [*PLAIN, *TRAINER],
    "ddpm_train_256": [*LATENT_DIFFUSION, *CALLBACKS, *TRAINER, *LARGE],
    "ddpm_train_512": [*LATENT_DIFFUSION, *CALLBACKS, *TRAINER, *LARGE],
    "ddpm_train_pairs": [*LATENT_DIFFUSION, *CALLBACKS, *TRAINER, "callbacks.mask_agreement.num_images=4"],
    "dataset_card": [],
    "dataset_export": [],
    "gan_train": [*DATA, *GAN, *CALLBACKS, *TRAINER],
    "gather_checkpoint": ["job.filename=one.ckpt"],
    "evaluate": [*DATA, "trainer.accelerator=cpu", "job.num_halvings=3", "job.extractor.image_size=32"],
    "export_model": ["job.license=cc0-1.0"],
    "inpaint": [*DATA, "data.masks=[disc,cup]", "trainer.accelerator=cpu"],
    "inspect_data": DATA,
    "segmentation_study": [
        "job.real=['data=phantom_masks','data.num_images=60','data.fractions={train: 0.5, val: 0.25, test: 0.25}']",
        f"job.common=[{','.join(map(repr, STUDIED))}]",
        "job.budgets=[4]",
        "job.ratios=[1]",
        "job.seeds=[0]",
        "job.num_replicates=20",
        "cache_dir=cache",
    ],
    "segmenter_train": [*DATA, *SEGMENTER, *TRAINER],
    "segmenter_train_gpu": [
        "data=phantom_masks",
        *DATA,
        *SEGMENTER,
        *TRAINER,
        "data.num_workers=0",
        "trainer.precision=32-true",
        "trainer.devices=1",
        "model.segmenter.warmup_epochs=0",
    ],
    "scaling": [*DATA, *AUTOENCODER, *UNET],
    "synthesize": ["num_images=12", "job.images_per_shard=5", "trainer.accelerator=cpu"],
    "vae_train": [*DATA, *AUTOENCODER, *TRAINER],
}
CLASSIFIER_FILES = ["checkpoints/best.ckpt", "predictions.parquet", "evaluation.json", "samples/val_confusion.png",
                    "tensorboard", "metrics.csv"]  # fmt: skip
SEGMENTER_FILES = ["checkpoints/best.ckpt", "masks.parquet", "evaluation.json", "samples/masks_0001.png",
                   "samples/val_masks.png", "samples/test_masks.png", "tensorboard", "metrics.csv"]  # fmt: skip
AUTOENCODER_FILES = ["checkpoints/best.ckpt", "checkpoints/last.ckpt", "samples", "tensorboard", "metrics.csv"]
DIFFUSION_FILES = [*AUTOENCODER_FILES, "autoencoder/checkpoints/last.ckpt", "frechet.csv", "rejected.csv"]
FILES = {
    "annotate": [],  # those in the set are looked at by test_annotate.py
    "benchmark": ["benchmark.json"],
    "benchmark_data": ["benchmark_data.json"],
    "classifier_train": CLASSIFIER_FILES,
    "classifier_train_cnn": CLASSIFIER_FILES,
    "classifier_train_retfound": CLASSIFIER_FILES,
    "compare_runs": ["comparison.csv", "groups.csv", "tests.csv", "comparison.md", "comparison.png", "tensorboard"],
    "pretrain_transfer": ["transfer.csv", "transfer.md", "transfer.png", "comparison/comparison.md", "tensorboard"],
    "dataset_card": [],
    "dataset_export": ["export.json", "labels.csv", "images"],
    "gan_train": [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "samples/epoch_0001.png",
        "frechet.csv",
        "metrics.csv",
    ],
    "ddpm_train_pairs": [*DIFFUSION_FILES, "samples/pairs_epoch_0001.png"],
    "gather_checkpoint": ["one.ckpt"],
    "evaluate": ["evaluation.json", "evaluation.html", "evaluation.md", "evaluation.png"],
    "export_model": ["export.json", "model/model_index.json", "model/README.md"],
    "inpaint": [
        "pairs.parquet",
        "inpainting.json",
        "images",
        "masks",
        "regions",
        "samples/pairs.png",
        "samples/nearest.png",
    ],
    "inspect_data": ["report.html", "counts.csv", "contact_sheet.png", "cooccurrence.png", "tensorboard"],
    "scaling": ["scaling.json"],
    "segmentation_study": ["study.json", "study.csv", "study.md", "study.html", "study.png"],
    "segmenter_train": SEGMENTER_FILES,
    "segmenter_train_gpu": SEGMENTER_FILES,
    "synthesize": [
        "plan.parquet",
        "data/shard-00002-of-00003.parquet",
        "checksums",
        "manifest.json",
        "trained_on.parquet",
    ],
    "vae_train": AUTOENCODER_FILES,
}
WITHOUT_DATA = (
    "annotate",
    "benchmark",
    "compare_runs",
    "dataset_card",
    "dataset_export",
    "evaluate",
    "gather_checkpoint",
    "export_model",
    "inpaint",
    "pretrain_transfer",
    "scaling",
    "segmentation_study",
    "synthesize",
)  # experiments that leave no index of images
NOISE = ("Tip:", "GPU available", "TPU", "litlogger", "treespec", "weights_only", "eval mode", "Loading `train",
         "does not have many workers", "smaller than the logging interval", "Warning", "Error executing")  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("name", experiments())
def test_every_experiment_runs(
    name,
    command,
    here,
    photographs,
    finished_runs,
    synthetic_set,
    generator,
    unseen_set,
    mask_generator,
    tmp_path_factory,
):
    assert name in SMALL, f"give {name} a size that runs in seconds: SMALL[{name!r}] in {__file__}"
    of_a_set = dict.fromkeys(("dataset_card", "dataset_export", "evaluate"), synthetic_set)
    pairs = write_pairs(tmp_path_factory.mktemp("pairs") / "set") if name == "segmentation_study" else None
    given = {
        "benchmark_data": photographs,
        "compare_runs": finished_runs,
        "synthesize": [f"ckpt={generator}"],
        "gather_checkpoint": [f"ckpt={generator}"],
        "export_model": [f"ckpt={generator}"],
        "inpaint": [f"ckpt={mask_generator}"],
        "annotate": unseen_set,
        "segmentation_study": [f"+job.sets.joint={pairs}"],
        **of_a_set,
    }.get(name, [])
    result = command(f"+exp={name}", "output_dir=out", *SMALL[name], *given)
    assert result.code == 0, result.err
    record = json.loads((here / "out" / "record.json").read_text())
    assert record["status"] == "finished"
    for file in [*FILES.get(name, DIFFUSION_FILES), "config.yaml", "manifest.parquet"]:
        assert (here / "out" / file).exists() or (name in WITHOUT_DATA and file == "manifest.parquet"), file
    assert {path.name for path in here.iterdir()} <= {"cache", "out"}, "a run writes there and nowhere else"


def test_no_size_is_given_for_what_is_no_experiment():
    assert set(SMALL) == set(experiments())


def test_the_terminal(command, here):
    result = command("+exp=ddpm_train", "output_dir=out", *SMALL["ddpm_train"])
    assert result.code == 0, result.err
    plan = [
        "ddpm_train: configuration",
        "image_size: 16",
        "output folder: out",
        "── model",
        "M parameters",
        "effective batch 8 (8 images x 1 process(es) x 1 accumulated), learning rate 0.001 (never rescaled)",
        "── data, by the index",
        "phantom: 40 images of 20 patients at 16 px",
        "dr_grade none",
        "training one first",
        "latents measured over 34 training images",
        "── denoiser",
        "── done",
        "val/fd_efficientnet_lite0 ",
        "samples:      out/samples/epoch_0001.png (newest of 2)",
        "checkpoints:  out/checkpoints/best.ckpt out/checkpoints/last.ckpt",
        "curves:       tensorboard --logdir ",
    ]
    places = [result.out.find(line) for line in plan]
    assert -1 not in places, [line for line, place in zip(plan, places, strict=True) if place < 0]
    assert places == sorted(places)
    assert re.search(r"Epoch 1:.*train/loss=.*left=\d:\d\d", result.out + result.err)
    for noise in NOISE:
        assert noise not in result.out + result.err, noise


def test_what_is_silenced_is_named_and_nothing_else(caplog):
    import warnings

    from lightning.pytorch.utilities import rank_zero_info

    from experiments.known_warnings import filter_known_warnings

    with warnings.catch_warnings(record=True) as caught:
        filter_known_warnings()
        warnings.warn("Found 86 module(s) in eval mode at the start of training. This may", UserWarning, stacklevel=1)
        warnings.warn("your gradients are not finite", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["your gradients are not finite"]
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        rank_zero_info("GPU available: False, used: False")
        rank_zero_info("Restoring states from the checkpoint path at x.ckpt")
    assert caplog.messages == ["Restoring states from the checkpoint path at x.ckpt"]
