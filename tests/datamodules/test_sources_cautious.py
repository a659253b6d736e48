"""Rules that leave a finding unknown where a label says too little."""

import pyarrow as pa
from refusals import refuses

from datamodules.manifest import ManifestError
from datamodules.sources.cautious import IfReadable, Narrower, Score, Scored, Unless, UnlessAll
from datamodules.sources.harmonise import YES_NO, Levels, harmonise


def test_what_is_narrower_than_our_finding_is_absent_only_where_nothing_hints_at_it():
    rule = Narrower("is_amd", ("amd",), ("drusen",))
    table = pa.table({"amd": ["1", "1", "0", "0", "", "0"], "drusen": ["0", "1", "0", "1", "0", ""]})
    assert harmonise([rule], table, "t")["is_amd"].to_pylist() == [1, 1, 0, -1, -1, -1]
    assert list(rule.lines())[1] == ("all of `amd`, `drusen` = 0", "0")


def test_an_exception_makes_unknown_what_the_rule_says():
    rule = Unless(Levels("is_amd", "amd", YES_NO), "quality", "2")
    table = pa.table({"amd": ["1", "1", "0", "0"], "quality": ["0", "2", "2.0", ""]})
    assert harmonise([rule], table, "t")["is_amd"].to_pylist() == [1, -1, -1, 0]
    assert rule.columns == ("amd", "quality") and list(rule.lines())[-1] == ("`quality` = 2", "unknown")


def test_an_exception_of_two_columns_needs_both():
    rule = UnlessAll(Levels("is_dme", "oedema", YES_NO), {"dr": "0", "oedema": "1"})
    table = pa.table({"oedema": ["1", "1", "0", "1", ""], "dr": ["0.0", "2", "0", "", "0"]})
    assert harmonise([rule], table, "t")["is_dme"].to_pylist() == [-1, 1, 0, 1, -1]
    assert list(rule.lines())[-1] == ("`dr` = 0 and `oedema` = 1", "unknown")
    assert rule.columns == ("oedema", "dr", "oedema")


def test_scores_are_good_or_bad_from_a_bound_on_and_between_them_nothing():
    rule = Scored("is_fundus", (Score("up", good=6, bad=4), Score("down", good=2, bad=3)))
    rows = {("6", "2"): 1, ("10", "0"): 1, ("4", "0"): 0, ("10", "3"): 0, ("5", "2"): -1, ("", "2"): -1, ("", "3"): 0}
    table = pa.table(dict(zip(("up", "down"), zip(*rows, strict=True), strict=True)))
    assert harmonise([rule], table, "t")["is_fundus"].to_pylist() == list(rows.values())
    with refuses(ManifestError, "row 3", "'down'", "'12'", "0 to 10"):
        harmonise([rule], pa.table({"up": ["6", "6"], "down": ["2", "12"]}), "t")


def test_nothing_is_said_of_what_cannot_be_seen():
    rule = IfReadable(Levels("is_amd", "amd", YES_NO), Levels("is_fundus", "seen", YES_NO))
    table = pa.table({"amd": ["1", "1", "0", "1"], "seen": ["1", "0", "0", ""]})
    assert harmonise([rule], table, "t")["is_amd"].to_pylist() == [1, -1, -1, 1]
    assert list(rule.lines())[-1] == ("`seen` = 0", "unknown") and rule.columns == ("amd", "seen")
