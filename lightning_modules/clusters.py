"""Clusters of images as a condition: one generator for all of them, where others train one for each.

Legend: B batch, K clusters, D width of the conditioning vector, E features of an image and its mask.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.randomness import SEED_LIMIT, stable_seed

UNKNOWN = -1


class ClusterConditioning(nn.Module):
    """A vector for each cluster, added to that of the labels; unknown has one of its own, which starts as 0.

    After Saragih et al. 2024 (arXiv 2310.16794), whose clusters are those of k-means over features of images and masks.
    Differs from the paper: one network is told the cluster, and hiding it in training lets guidance strengthen it.

    Args:
        num_clusters: K.
        dim: D.
        num_features: E.
        dropout: chance that training hides the cluster of an image. It is hidden too where all labels are.

    Raises:
        UserError: fewer than two clusters; a dropout that is no share.
    """

    centres: Tensor  # [K, E]
    counts: Tensor  # training images of each cluster, int64 [K]

    def __init__(self, num_clusters: int, dim: int, num_features: int, dropout: float = 0.1):
        super().__init__()
        if type(num_clusters) is not int or num_clusters < 2:
            raise UserError(f"model.clusters={num_clusters} must be a whole number of at least 2, or null for none.")
        if not 0 <= dropout <= 1:
            raise UserError(f"dropout={dropout} of clusters must be a share from 0 to 1.")
        self.dim, self.dropout = dim, dropout
        self.embedding = nn.Embedding(num_clusters + 1, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        with torch.no_grad():
            self.embedding.weight[0] = 0.0
        self.register_buffer("centres", torch.zeros(num_clusters, num_features))
        self.register_buffer("counts", torch.zeros(num_clusters, dtype=torch.int64))
        self._of_image: dict[str, int] = {}

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run, here or before the checkpoint was written."""
        return bool(self.counts.sum() > 0)

    def fit(self, centres: Tensor, counts: Tensor) -> None:
        """Take centres [K, E] and the number of training images of each, int64 [K].

        Raises:
            UserError: others than K centres of E features, or a count of 0.
        """
        if centres.shape != self.centres.shape or counts.shape != self.counts.shape or not (counts > 0).all():
            raise UserError(
                f"clusters have centres {list(centres.shape)} and counts {counts.tolist()}; {list(self.centres.shape)} "
                "and an image at least in each are needed."
            )
        self.centres.copy_(centres)
        self.counts.copy_(counts)

    def nearest(self, features: Tensor) -> Tensor:
        """Features [B, E] -> the cluster whose centre is nearest, int64 [B]."""
        return torch.cdist(features.to(self.centres), self.centres).argmin(1)

    def assign(self, clusters: Mapping[str, int]) -> None:
        """Say in which cluster the images of these ids are; others are in none that is known."""
        self._of_image = dict(clusters)

    def of(self, ids: Sequence[str]) -> Tensor:
        """The cluster of images by their ids, int64 [B], -1 where it is not known."""
        return torch.tensor([self._of_image.get(name, UNKNOWN) for name in ids], device=self.counts.device)

    def drawn(self, seeds: Sequence[int] | Tensor) -> Tensor:
        """Clusters as often as in training, int64 [B]; that of an image follows from its seed."""
        shares = torch.tensor([stable_seed("cluster", int(seed)) / SEED_LIMIT for seed in seeds], dtype=torch.float64)
        ends = self.counts.cpu().double().cumsum(0)
        found = torch.searchsorted(ends, shares * ends[-1], right=True)
        return found.clamp(max=self.num_clusters - 1).to(self.counts.device)

    def draw_hidden(self, num: int, generator: torch.Generator) -> Tensor:
        """Of which of `num` images training hides the cluster, bool [num] on the generator's device."""
        return torch.rand(num, generator=generator, device=generator.device) < self.dropout

    def check(self, cluster: Tensor, num: int) -> None:
        """Raise UserError for what is not int64 [num] of -1 and the clusters."""
        if cluster.shape != (num,) or cluster.dtype != torch.int64:
            raise UserError(f"clusters are {cluster.dtype} {list(cluster.shape)}; int64 [{num}] is needed.")
        for row, number in enumerate(cluster.tolist()):
            if not UNKNOWN <= number < self.num_clusters:
                raise UserError(
                    f"cluster[{row}]={number} is none: use 0 to {self.num_clusters - 1}, or {UNKNOWN} for unknown."
                )

    def forward(self, cluster: Tensor) -> Tensor:
        """Clusters int64 [B] -> [B, D]."""
        return self.embedding(cluster + 1)
