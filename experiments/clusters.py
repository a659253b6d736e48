"""Clusters of training images by features of image and mask, found once before a generator is trained on them."""

import torch
from torch import Tensor

from callbacks.feature_sets import progress
from callbacks.features import FeatureExtractor, build_extractor
from datamodules.augment import to_unit_range
from datamodules.dataset import FundusDataset
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.masks import to_levels
from experiments.report import say
from lightning_modules.checkpoint import load_state
from lightning_modules.latent_diffusion import LatentDiffusion

EXTRACTOR, NUM_FEATURES = "efficientnet_lite0", 1280  # whose weights are installed with this project
BATCH, NUM_STARTS = 64, 4  # images at once; starts of k-means, of which the best stays
CENTRES, COUNTS = (f"network.clusters.{name}" for name in ("centres", "counts"))  # in a checkpoint


def cluster_features(with_masks: bool) -> int:
    """Features of an image, and of its mask where there are masks."""
    return NUM_FEATURES * (1 + with_masks)


def cluster_images(
    module: LatentDiffusion, datamodule: FundusDataModule, device: torch.device, checkpoint: str = ""
) -> None:
    """Find the clusters of the training images, and say to the module in which each image is.

    Validation images are in the cluster whose centre is nearest. Clusters that come with weights stay as they are:
    those of `checkpoint`, from which the run goes on, and those of a generator that is trained further.

    Raises:
        UserError: images that are streamed; fewer training images than clusters.
    """
    from sklearn.cluster import KMeans  # takes a second, which other jobs need not wait for

    clusters, num_images = module.network.clusters, len(datamodule.manifest.rows("train"))
    if len(datamodule.dataset("train")) != num_images:
        raise UserError(
            f"model.clusters={clusters.num_clusters}: images of {datamodule.source.name} are streamed, and clusters "
            "are found in images that are all at hand. Remedy: model.clusters=null, or a cached data option."
        )
    if num_images < clusters.num_clusters:
        raise UserError(f"model.clusters={clusters.num_clusters} is more than the {num_images} training images.")
    extractor, masks = build_extractor(EXTRACTOR).to(device), module.network.masks
    top = 0 if masks is None else len(masks.levels) - 1
    there = [split for split in ("train", "val") if len(datamodule.manifest.rows(split))]
    features = {split: features_of(datamodule.dataset(split), extractor, top) for split in there}
    if checkpoint:
        state = load_state(checkpoint)["state_dict"]
        module.fit_clusters(state[CENTRES], state[COUNTS])
    elif not clusters.fitted:
        means = KMeans(clusters.num_clusters, n_init=NUM_STARTS, random_state=module.seed)
        found = means.fit(features["train"].numpy())
        centres = torch.from_numpy(found.cluster_centers_)
        module.fit_clusters(centres, torch.bincount(torch.from_numpy(found.labels_).long(), minlength=len(centres)))
    clusters.assign(
        {name: number for split in there for name, number in
         zip(datamodule.dataset(split).ids, clusters.nearest(features[split]).tolist(), strict=True)}
    )  # fmt: skip
    say(f"clusters:     {clusters.num_clusters}, of {', '.join(map(str, clusters.counts.tolist()))} training images")


@torch.no_grad()
def features_of(dataset: FundusDataset, extractor: FeatureExtractor, top: int) -> Tensor:
    """Features float32 [N, E] of images, and behind them those of their masks as grey images, on the CPU.

    A mask's levels are evenly spread from black, the background or unknown, to white, the level `top`; 0 for no masks.
    """
    device, found = extractor.mean.device, []
    with progress("features for clusters", len(dataset)) as bar:
        for start in range(0, len(dataset), BATCH):
            some = slice(start, start + BATCH)
            parts = [to_unit_range(torch.from_numpy(dataset.images[some]).permute(0, 3, 1, 2))]
            if top:
                grey = to_levels(torch.from_numpy(dataset.masks[some][..., 0])).clamp(min=0) / top
                parts.append(grey[:, None].expand_as(parts[0]))
            found.append(torch.cat([extractor(part.to(device)).cpu() for part in parts], dim=1))
            bar.update(len(parts[0]))
    return torch.cat(found)
