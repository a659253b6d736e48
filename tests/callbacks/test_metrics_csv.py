"""metrics.csv: columns may come late, a torn line is left out, resuming drops what a checkpoint does not vouch for."""

import pytest
import torch
from refusals import refuses
from tiny_fit import fit, read_saved

from callbacks.csv_table import CsvTable
from callbacks.metrics_csv import MetricsCSV, resume_step


def test_columns_in_order_of_first_appearance_and_exact_numbers(tmp_path):
    table = CsvTable(tmp_path / "t.csv")
    table.append({"step": 0, "a": 0.1 + 0.2})
    table.append({"step": 1, "b,c": 'say "x"', "a": None})
    assert (tmp_path / "t.csv").read_text() == 'step,a,"b,c"\n0,0.30000000000000004,\n1,,"say ""x"""\n'
    assert float(table.read()[0]["a"]) == 0.1 + 0.2
    table.keep(lambda row: row["step"] == "0")
    assert (tmp_path / "t.csv").read_text() == "step,a\n0,0.30000000000000004\n"


def test_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("step,a,b\n0,1.0,2.0\n1,1.")
    table = CsvTable(path)
    assert [row["step"] for row in table.read()] == ["0"]
    table.append({"step": 1, "a": 3.0})
    assert path.read_text() == "step,a,b\n0,1.0,2.0\n1,3.0,\n"


@pytest.mark.parametrize(
    ("content", "facts"),
    [("step,a\nx,1\n", ("step", "'x'")), ("a\n1\n", ("column", "'step'")), ("step\n1.5\n", ("step", "'1.5'")),
     (f"step\n{'9' * 30}\n", ("step", "9" * 30)), (f'step,a\n1,"{"x" * 200_000}"\n', ("field", 131072))],
)  # fmt: skip
def test_a_table_of_another_shape_is_named_with_the_cell(tmp_path, content, facts):
    (tmp_path / "metrics.csv").write_text(content)
    with refuses(ValueError, "metrics.csv", *facts):
        CsvTable(tmp_path / "metrics.csv", {"step": int}).read()


def test_a_table_that_is_a_link_is_not_written_through(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("a\n1\n")
    (tmp_path / "metrics.csv").symlink_to(mine)
    table = CsvTable(tmp_path / "metrics.csv")
    table.append({"a": 2})  # which writes the file anew, in the place of the link
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").symlink_to(mine)
    with refuses(ValueError, tmp_path / "metrics.csv", mine):
        table.append({"a": 3})
    assert mine.read_text() == "a\n1\n"


@pytest.mark.parametrize("cut", range(1, len("1,3.25,ä\n".encode()) + 1))
def test_line_cut_anywhere_is_left_out(tmp_path, cut):
    """Also within its last cell, where what is left looks like a row."""
    path = tmp_path / "t.csv"
    whole = "step,a,b\n0,1.0,2.0\n"
    path.write_bytes((whole + "1,3.25,ä\n").encode()[:-cut])
    table = CsvTable(path)
    assert [row["step"] for row in table.read()] == ["0"]
    table.append({"step": 1, "a": 3.25, "b": 4.5})
    assert path.read_text() == whole + "1,3.25,4.5\n"


def test_header_cut_short_is_no_table(tmp_path):
    (tmp_path / "t.csv").write_text("step,a")
    assert CsvTable(tmp_path / "t.csv").read() == []


def test_resumed_file_equals_that_of_the_uninterrupted_run(tmp_path):
    fit(tmp_path, logger=MetricsCSV(str(tmp_path / "whole")), max_epochs=3)
    trainer, _ = fit(tmp_path, logger=MetricsCSV(str(tmp_path / "killed")), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    whole, killed = ((tmp_path / name / "metrics.csv") for name in ("whole", "killed"))
    reached = killed.read_text()
    assert whole.read_text().startswith(reached)
    # The run went on to the second epoch, logged something new, and was killed without a checkpoint.
    lost = MetricsCSV(str(tmp_path / "killed"), first_step=6)
    lost.log_metrics({"train/loss": 1.0, "epoch": 1, "odd": 2.0}, step=6)
    step = resume_step(read_saved(tmp_path / "one.ckpt"))
    assert step == 6
    logger = MetricsCSV(str(tmp_path / "killed"), first_step=step)
    logger.log_metrics({"val/loss": 1.0, "epoch": 1}, step=6)
    assert killed.read_text() == reached + "6,1,,1.0\n"


def test_fresh_run_starts_afresh(tmp_path):
    MetricsCSV(str(tmp_path)).log_metrics({"a": 1.0}, step=0)
    MetricsCSV(str(tmp_path)).log_metrics({"b": 1.0}, step=0)
    assert (tmp_path / "metrics.csv").read_text() == "step,b\n0,1.0\n"


def test_resume_step_counts_batches_where_two_optimisers_count_double(tmp_path):
    progress = {"epoch_loop.manual_optimization.optim_step_progress": {"total": {"ready": 20, "completed": 20}}}
    progress["epoch_loop.batch_progress"] = {"total": {"ready": 10}}
    torch.save({"global_step": 20, "loops": {"fit_loop": progress}}, tmp_path / "a.ckpt")
    assert resume_step(read_saved(tmp_path / "a.ckpt")) == 10
    torch.save({"state_dict": {}}, tmp_path / "b.ckpt")
    with refuses(ValueError, "global_step"):
        resume_step(read_saved(tmp_path / "b.ckpt"))


@pytest.mark.parametrize(
    "text", ["[1, 2]\n", "hello\nworld\n", "step,epoch\nx,1\n", "step,loss\n1.5,2\n", f"step,a\n1,{'x' * 200_000}\n"]
)
def test_a_damaged_file_is_told_before_it_is_gone_on_with(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with refuses(ValueError, path, "table", "delete"):
        MetricsCSV(str(tmp_path), first_step=3)
    assert path.read_text() == text
    fresh = MetricsCSV(str(tmp_path))
    fresh.log_metrics({"loss": 1.0}, 0)
    assert path.read_text() == "step,loss\n0,1.0\n", "a new run needs nothing of it"


def test_an_empty_file_and_one_that_is_cut_are_gone_on_with(tmp_path):
    for text, kept in (("", ""), ("step,loss\n-1,0.5\n2,0.2", "-1,0.5\n")):
        (tmp_path / "metrics.csv").write_text(text)
        MetricsCSV(str(tmp_path), first_step=3).log_metrics({"loss": 1.0}, 3)
        assert (tmp_path / "metrics.csv").read_text() == f"step,loss\n{kept}3,1.0\n"
