"""Heads: features to a probability of each level of each finding.

A finding of K levels has K - 1 thresholds, and its head gives the logit of P(level > k) for each: one for a finding
that is present or absent, four for the grade of diabetic retinopathy. The thresholds of a grade share one direction in
the space of features and have ordered offsets, so that P(level > k) falls with k (the proportional odds model,
McCullagh 1980; with neural features CORAL, Cao et al. 2020, whose offsets are ordered only at the optimum).

Letters: B batch, D features, F findings, K levels of a finding, T thresholds of all findings.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.errors import UserError


class FindingHeads(nn.Module):
    """Features float [B, D] -> logits float [B, T], the thresholds of one finding after those of the other.

    Args:
        num_features: D.
        columns: of each finding that is told its name, and its column in the label matrix.
        num_levels: K of each finding, by name.
        dropout: chance that a feature is hidden in training.
    """

    def __init__(
        self, num_features: int, columns: Mapping[str, int], num_levels: Mapping[str, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not columns:
            raise UserError("findings is empty: name one finding at least.")
        self.columns = dict(columns)
        self.num_levels = {name: num_levels[name] for name in columns}
        self.dropout = nn.Dropout(dropout)
        self.directions = nn.Linear(num_features, len(columns), bias=False)
        nn.init.trunc_normal_(self.directions.weight, std=0.01)
        self.offsets = nn.Parameter(torch.zeros(self.num_thresholds))
        thresholds = [(place, k) for place, name in enumerate(columns) for k in range(self.num_levels[name] - 1)]
        self.register_buffer("finding", torch.tensor([place for place, _ in thresholds]), persistent=False)
        self.register_buffer("level", torch.tensor([k for _, k in thresholds]), persistent=False)

    @property
    def num_thresholds(self) -> int:
        """T."""
        return sum(levels - 1 for levels in self.num_levels.values())

    def forward(self, features: Tensor) -> Tensor:
        """Logits float [B, T]."""
        return self.directions(self.dropout(features))[:, self.finding] + self._ordered_offsets()

    def _ordered_offsets(self) -> Tensor:
        """Offsets [T]: of each finding the first is free, and each next lies below it by a positive step."""
        steps = torch.where(self.level == 0, self.offsets, -functional.softplus(self.offsets))
        total = torch.cumsum(steps, dim=0)
        before = torch.cat([total.new_zeros(1), total])[_first_of(self.level, self.finding)]
        return total - before

    def targets(self, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Of labels int64 [B, all findings]: whether the level is above each threshold, and whether it is known.

        float32 [B, T] and bool [B, T]. With `smoothing` that share of the certainty is spread over all levels alike.
        """
        columns = torch.tensor(list(self.columns.values()), device=labels.device)
        levels = labels[:, columns][:, self.finding]
        of_finding = torch.tensor(list(self.num_levels.values()), device=labels.device)[self.finding]
        evenly = (of_finding - 1 - self.level) / of_finding  # P(level > k) where all levels are as likely
        return (1 - smoothing) * (levels > self.level).float() + smoothing * evenly, levels >= 0

    def probabilities(self, logits: Tensor) -> dict[str, Tensor]:
        """P(level) of each finding, float32 [B, K], rows summing to 1."""
        above = torch.sigmoid(logits.float())
        found = {}
        for place, (name, levels) in enumerate(self.num_levels.items()):
            mine = above[:, self.finding == place]
            bounds = torch.cat([torch.ones_like(mine[:, :1]), mine, torch.zeros_like(mine[:, :1])], dim=1)
            found[name] = bounds[:, :-1] - bounds[:, 1:]
            assert found[name].shape[1] == levels
        return found


def _first_of(level: Tensor, finding: Tensor) -> Tensor:
    """Of each threshold the place of its finding's first, int64 [T]."""
    firsts = torch.nonzero(level == 0).flatten()
    return firsts[finding]
