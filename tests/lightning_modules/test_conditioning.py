"""Labels: unknown is its own row, findings are dropped one by one, errors name the finding."""

import pytest
import torch
from refusals import refuses

from lightning_modules.conditioning import UNKNOWN, LabelConditioning

LEVELS = {"dr_grade": 5, "is_gc": 2, "eye_side": 2}


def make(**arguments):
    torch.manual_seed(0)
    return LabelConditioning(LEVELS, 16, **arguments)


def test_embedding_is_the_sum_of_one_row_a_finding():
    conditioning = make().eval()
    rows = conditioning.embedding.weight
    # Tables of 6, 3 and 3 rows; row 0 of each is "unknown".
    expected = conditioning.mlp(rows[0 + 4] + rows[6 + 0] + rows[9 + 1])
    torch.testing.assert_close(conditioning(torch.tensor([[3, -1, 0]]))[0], expected)


def test_a_grade_is_the_sum_of_the_steps_up_to_it():
    conditioning, rows = make(ordinal=["dr_grade"]), make(ordinal=["dr_grade"]).embedding.weight
    expected = [rows[0], rows[1], rows[1] + rows[2], rows[1:4].sum(0), rows[1:5].sum(0), rows[1:6].sum(0)]
    torch.testing.assert_close(conditioning.table()[:6], torch.stack(expected))
    torch.testing.assert_close(conditioning.table()[6:], rows[6:])
    torch.testing.assert_close(
        conditioning(torch.tensor([[3, -1, 0]]))[0], conditioning.mlp(expected[4] + rows[6] + rows[10])
    )
    conditioning(torch.tensor([[2, -1, -1]])).sum().backward()
    touched = conditioning.embedding.weight.grad.abs().sum(1) > 0
    assert touched[:6].tolist() == [False, True, True, True, False, False]
    with refuses(ValueError, "ordinal='dr'", "dr_grade"):
        make(ordinal=["dr"])


def test_without_grades_nothing_changes():
    assert torch.equal(make().embedding.weight[6:], make(ordinal=["dr_grade"]).embedding.weight[6:])
    assert make().table() is make().embedding.weight or torch.equal(make().table(), make().embedding.weight)


def test_unknown_is_no_negative():
    conditioning = make().eval()
    torch.nn.init.normal_(conditioning.embedding.weight)
    known, unknown = conditioning(torch.tensor([[2, 0, 1], [2, -1, 1]]))
    assert not torch.allclose(known, unknown)
    loss = conditioning(torch.tensor([[2, -1, 1]])).sum()
    loss.backward()
    assert conditioning.embedding.weight.grad[7].abs().sum() == 0  # is_gc absent
    assert conditioning.embedding.weight.grad[6].abs().sum() > 0  # is_gc unknown


def test_findings_are_hidden_by_the_generator_alone():
    conditioning = make(factor_dropout=0.3, all_dropout=0.2)
    hidden = conditioning.draw_hidden(20_000, torch.Generator().manual_seed(1))
    assert torch.equal(hidden, conditioning.draw_hidden(20_000, torch.Generator().manual_seed(1)))
    # A finding is hidden by itself or with all: 1 - 0.7 * 0.8; all three: 0.2 + 0.8 * 0.3 ** 3.
    assert (hidden.double().mean(0) - 0.44).abs().max() < 0.015
    assert abs(hidden.all(1).double().mean() - 0.2216) < 0.015


def test_all_hidden_is_the_unconditional():
    conditioning = make(factor_dropout=0.0, all_dropout=1.0)
    labels = torch.tensor([[3, 1, 0], [0, 0, 1]])
    hidden = labels.masked_fill(conditioning.draw_hidden(2, torch.Generator().manual_seed(0)), UNKNOWN)
    assert torch.equal(conditioning(hidden), conditioning(conditioning.unknown(2)))


@pytest.mark.parametrize(
    "labels, facts",
    [
        ([[0, 0, 0], [5, 0, 0]], ["labels[1, 0]=5", "'dr_grade'", "0..4", -1]),
        ([[0, 2, 0]], ["labels[0, 1]=2", "'is_gc'", "0..1"]),
        ([[0, 0, -2]], ["labels[0, 2]=-2", "'eye_side'", "0..1"]),
        ([[0, 0]], ["(1, 2)", "int64 [B, 3]", "dr_grade, is_gc, eye_side"]),
    ],
)
def test_a_label_out_of_range_is_named(labels, facts):
    with refuses(ValueError, *facts):
        make().eval()(torch.tensor(labels))


def test_bad_arguments():
    with refuses(ValueError, "factor_dropout=1.5"):
        make(factor_dropout=1.5)
    with refuses(ValueError, "num_levels['x']=1"):
        LabelConditioning({"x": 1}, 4)
