"""Labels to a conditioning vector: unknown is a value of its own, and findings are dropped one by one.

Legend:
    B batch    F findings    D width of the conditioning vector
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.names import check_name

UNKNOWN = -1


class LabelConditioning(nn.Module):
    """Sum of one embedding a finding, then an MLP: labels [B, F] -> [B, D].

    Row 0 of each finding's table stands for "unknown", row 1 + level for a level, so that an unknown finding never
    counts as an absent one. Training hides single findings and whole rows of labels at random (`draw_hidden`), which
    lets one network serve every subset of the findings and, with all unknown, as the unconditional model of
    classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598, algorithm 1).
    Differs from the paper: findings are also dropped singly.

    Args:
        num_levels: levels of each finding, in the order of the label columns.
        dim: width D.
        factor_dropout: chance that training hides a finding of an image, each by itself.
        all_dropout: chance that it hides all findings of an image.
        ordinal: findings whose levels are grades: a level's vector is the sum of the rows up to it, so that what is
            learnt of one grade serves those above, and neighbours are alike (as Schmidt et al. 2026, arXiv 2602.24013,
            give the severity as one number; differs from the paper: each step has a vector of its own).

    Raises:
        ValueError: a chance outside [0, 1]; a finding of fewer than two levels; an ordinal one that is none of them.
    """

    def __init__(
        self,
        num_levels: Mapping[str, int],
        dim: int = 256,
        factor_dropout: float = 0.1,
        all_dropout: float = 0.1,
        ordinal: Sequence[str] = (),
    ):
        super().__init__()
        for name, value in (("factor_dropout", factor_dropout), ("all_dropout", all_dropout)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}={value} must be a fraction in [0, 1].")
        for name, levels in num_levels.items():
            if levels < 2:
                raise UserError(f"num_levels[{name!r}]={levels}: a finding has at least two levels.")
        for name in ordinal:
            check_name("ordinal", name, num_levels)
        self.names, self.levels = tuple(num_levels), tuple(num_levels.values())
        self.ordinal = tuple(name in ordinal for name in self.names)
        self.dim, self.factor_dropout, self.all_dropout = dim, factor_dropout, all_dropout
        rows = torch.tensor([levels + 1 for levels in self.levels])
        self.register_buffer("first_row", rows.cumsum(0) - rows, persistent=False)  # of each finding's table
        self.embedding = nn.Embedding(int(rows.sum()), dim)
        nn.init.normal_(self.embedding.weight, std=len(rows) ** -0.5)
        with torch.no_grad():
            self.embedding.weight[self.first_row] = 0.0  # unknown starts out saying nothing
            for first, levels in self._grades():
                self.embedding.weight[first + 1 : first + levels] /= levels**0.5  # so that sums are as large as others
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    @property
    def num_findings(self) -> int:
        """F, the number of label columns."""
        return len(self.names)

    def unknown(self, num: int) -> Tensor:
        """Labels [num, F] of which nothing is known."""
        return torch.full((num, self.num_findings), UNKNOWN, device=self.first_row.device)

    def check(self, labels: Tensor) -> None:
        """Raise ValueError for labels that are not int64 [B, F] in -1..levels-1, naming finding, value and row."""
        if labels.ndim != 2 or labels.shape[1] != self.num_findings or labels.dtype != torch.int64:
            raise UserError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; need int64 [B, {self.num_findings}] with columns "
                f"{', '.join(self.names)}."
            )
        levels = torch.tensor(self.levels, device=labels.device)
        wrong = ((labels < UNKNOWN) | (labels >= levels)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise UserError(
                f"labels[{row}, {column}]={labels[row, column].item()} is no level of {self.names[column]!r}: "
                f"use 0..{self.levels[column] - 1}, or {UNKNOWN} for unknown."
            )

    def draw_hidden(self, num: int, generator: torch.Generator) -> Tensor:
        """Which findings of `num` images training hides, bool [num, F] on the generator's device."""
        options = {"generator": generator, "device": generator.device}
        hidden = torch.rand(num, self.num_findings, **options) < self.factor_dropout
        return hidden | (torch.rand(num, 1, **options) < self.all_dropout)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels int64 [B, F] -> [B, D].

        Raises:
            ValueError: see `check`. Labels on an accelerator are not checked here, which would wait for it.
        """
        if labels.device.type == "cpu":
            self.check(labels)
        rows = labels + 1 + self.first_row  # [B, F]
        vectors = nn.functional.embedding(rows, self.table()) if any(self.ordinal) else self.embedding(rows)
        return self.mlp(vectors.sum(1))

    def table(self) -> Tensor:
        """The vector of each level, and of unknown, of each finding, [F + all levels, D]."""
        # Through the layer, and not of its weight: ZeRO's third stage has that in pieces until the layer is called.
        weight = self.embedding(torch.arange(self.embedding.num_embeddings, device=self.first_row.device))
        parts, end = [], 0
        for first, levels in self._grades():
            parts += [weight[end:first], weight[first : first + levels].cumsum(0)]
            end = first + levels
        return torch.cat([*parts, weight[end:]]) if parts else weight

    def _grades(self) -> list[tuple[int, int]]:
        """Of each ordinal finding the row of level 0, and the number of levels."""
        ends = list(accumulate(levels + 1 for levels in self.levels))
        return [
            (end - levels, levels)
            for end, levels, ordinal in zip(ends, self.levels, self.ordinal, strict=True) if ordinal
        ]  # fmt: skip
