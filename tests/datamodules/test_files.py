"""Files from elsewhere: what is read is of the kind that it should be, and what is written stays in its folder."""

import csv
import errno
import inspect
import json
import os
from pathlib import Path

import pytest
from refusals import refuses

from callbacks import files as of_callbacks
from datamodules import files
from datamodules.files import harmless, misfit, open_own, own_folder, read_json, read_yaml, safe_name

SHAPE = {"num_images": int, "share?": float, "files": [{"file": str}], "figures?": {"*": {"value?": float}}}
WHOLE = {"num_images": 3, "files": [{"file": "a"}, {"file": "b"}]}
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 50)}]\n" for a, b in zip("abcde", "bcdef", strict=True)
)  # a few lines that stand for 600 million values


class OfRoom(ValueError):
    """An error of its own, as rooms have."""


@pytest.mark.parametrize(
    "name",
    ["read_json", "read_text", "misfit", "own_folder", "refuse_link", "open_own", "write_text", "write_json", "sha256"],
)
def test_both_rooms_read_and_open_alike(name: str) -> None:
    """Not to drift apart: a check that is added in one room only would leave the other open."""
    assert inspect.getsource(getattr(files, name)) == inspect.getsource(getattr(of_callbacks, name))


@pytest.mark.parametrize("named", [True, False])
def test_a_disk_that_refuses_is_told_with_the_file_that_was_to_be(tmp_path: Path, named: bool) -> None:
    def full(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", *([str(temporary)] if named else []))

    (tmp_path / "t.csv").write_text("as before")
    with refuses(OSError, tmp_path / "t.csv") as caught:
        files.write_atomically(tmp_path / "t.csv", full)
    assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path / 't.csv'}'"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("t.csv", "as before")]


def test_a_folder_in_the_place_of_the_file_is_told_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        files.write_text(tmp_path / "t.csv", "x")
    assert str(caught.value).endswith(f"directory: '{tmp_path / 't.csv'}'")


def test_an_error_of_a_file_that_is_read_while_another_is_written_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.write_atomically(tmp_path / "plan.parquet", lambda _: (tmp_path / "labels.csv").read_text())
    assert caught.value.filename == str(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (WHOLE, None),
        (WHOLE | {"more": None, "share": 1}, None),
        ([], "it holds []"),
        (WHOLE | {"num_images": "3"}, "num_images is '3'"),
        (WHOLE | {"num_images": True}, "num_images is True"),
        (WHOLE | {"num_images": -1}, "num_images is -1"),
        (WHOLE | {"num_images": 2**63}, "num_images is 9223372036854775808"),
        (WHOLE | {"num_images": 3.0}, "num_images is 3.0"),
        (WHOLE | {"share": float("nan")}, "share is nan"),
        (WHOLE | {"share": float("inf")}, "share is inf"),
        (WHOLE | {"files": {}}, "files is {}"),
        (WHOLE | {"files": [{"file": "a"}, {}]}, "files[1].file is missing"),
        (WHOLE | {"files": [{"file": "a"}, {"file": 7}]}, "files[1].file is 7"),
        ({"files": []}, "num_images is missing"),
        (WHOLE | {"figures": {"a": {"value": 1}, "b": {"value": None}}}, None),
        (WHOLE | {"figures": {"a": {"value": 1}, "b": {"value": "1"}}}, "figures.b.value is '1'"),
        (WHOLE | {"figures": {"a": []}}, "figures.a is []"),
    ],
)
def test_a_misfit_is_told_with_its_place_and_its_value(found: object, said: str | None) -> None:
    fault = misfit(found, SHAPE)
    assert fault is None if said is None else fault is not None and fault.startswith(said) and "must be" in fault


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"{", b'{"num_images": 3', b"\xff\xfe{}", b"[" * 100_000, b"1" * 5000, b'{"a": "\\ud800"}', b"[]",
     b"null"],
)  # fmt: skip
def test_json_that_is_damaged_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with refuses(OfRoom, path, "whole"):
        read_json(path, SHAPE, error=OfRoom)


@pytest.mark.parametrize(
    "content",
    ["", "a: [", '!!int ""', "!!timestamp foo", "!!bool foo", "2024-99-99", "a: &a [*a]", "!!python/name:os.system",
     "[" * 300, f"0x{'f' * 9000}", "- 1", BOMB],
)  # fmt: skip
def test_yaml_that_is_damaged_or_a_bomb_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with refuses(OfRoom, path, "whole"):
        read_yaml(path, error=OfRoom)


def test_what_is_whole_is_read_also_with_a_mark_of_utf_8_in_front(tmp_path: Path) -> None:
    path = tmp_path / "found"
    path.write_text(json.dumps(WHOLE), encoding="utf-8-sig")
    assert read_json(path, SHAPE) == WHOLE
    assert read_yaml(path, SHAPE) == WHOLE


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.json")
    with refuses(ValueError, tmp_path / "recipe.json", "no file"):
        read_json(tmp_path / "recipe.json")
    with refuses(ValueError, tmp_path / "recipe.json", "no file"):
        open_own(tmp_path / "recipe.json", "a+")
    with refuses(ValueError, tmp_path / "recipe.json", "no file"):
        open_own(tmp_path / "recipe.json", "w")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "a\0", "a\x1b[2J", "\ud800", "x" * 201, "ß" * 101, 7, None]
)
def test_names_that_lead_elsewhere_are_none(name: object) -> None:  # fmt: skip
    with refuses(ValueError, "shard.parquet", f"row 3: {repr(name)[:13]}"):
        safe_name(name, "shard.parquet, row 3")


def test_names_of_files_stay_as_they_are() -> None:
    for name in ("a", "..a", "größe 1", "-x", "shard-00000-of-00008.parquet", "x" * 200):
        assert safe_name(name, "here") == name


def test_the_longest_name_can_be_written_as_a_file_of_any_kind(tmp_path: Path) -> None:
    name = f"{safe_name('ß' * 100, 'here')}.parquet"
    files.write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_or_a_file_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    mine, root = tmp_path / "mine", tmp_path / "sent"
    mine.mkdir()
    root.mkdir()
    (mine / "notes").write_text("mine")
    (root / "samples").symlink_to(mine)
    (root / "made").mkdir()
    (root / "made" / "deeper").symlink_to(tmp_path / "nowhere")
    (root / ".lock").symlink_to(mine / "notes")
    for call in (lambda: own_folder(root, "samples"), lambda: own_folder(root, "made/deeper"),
                 lambda: open_own(root / ".lock", "w"), lambda: open_own(root / ".lock", "a+b")):  # fmt: skip
        with refuses(ValueError, root, "a link", "delete"):
            call()
    assert (mine / "notes").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert own_folder(root, "a/b").is_dir()
    with open_own(root / "log", "w") as file:
        file.write("ä")
    with open_own(root / "log", "w") as file:
        file.write("b")
    assert (root / "log").read_text() == "b"


def test_a_link_under_the_name_of_the_unfinished_file_is_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / f".report.{os.getpid()}.part.md").symlink_to(mine)
    files.write_text(tmp_path / "report.md", "theirs")
    assert (mine.read_text(), (tmp_path / "report.md").read_text()) == ("mine", "theirs")


@pytest.mark.parametrize(
    "cell", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t1", "\r1", "\n", "  =1", "＝1", '=HYPERLINK("x")']
)
def test_a_cell_that_a_spreadsheet_would_run_becomes_text(cell: str) -> None:  # fmt: skip
    assert harmless(cell) == f"'{cell}"


@pytest.mark.parametrize(
    ("cell", "text"),
    [("x;=1+1", "x;'=1+1"), (";=1+1", ";'=1+1"), ("a ;=1+1", "a ;'=1+1"), ("a; ;=1", "a; ;'=1"), ("a\n=1", "a\n'=1"),
     ("x\r=1", "x\r'=1"), ("a;＝1", "a;'＝1"), ("a;\t @b", "a;\t' @b"), ("\t=1", "'\t'=1"), ("=1;=2", "'=1;'=2")],
)  # fmt: skip
def test_a_formula_behind_a_separator_or_an_end_of_line_becomes_text(cell: str, text: str) -> None:
    assert harmless(cell) == text


@pytest.mark.parametrize(
    "cell",
    [-1, -0.5, None, "", "-1", "+1.5", "-5", "1e-3", "-1e-5", "-.5", "a-b", "a;b - c", "x=1", "images/a.png", "'=1"],
)
def test_numbers_and_plain_text_stay_as_they_are(cell: object) -> None:
    assert harmless(cell) is cell


def test_a_table_is_written_whole_whatever_its_names_are(tmp_path: Path) -> None:
    rows = [("path", "level"), ("=cmd|'/c calc'!A1", -1), ("größe", None), ("a\udcff", 2.5)]
    files.write_csv(tmp_path / "t.csv", rows)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["path", "level"], ["'=cmd|'/c calc'!A1", "-1"], ["größe", ""], ["a\\udcff", "2.5"],
        ]  # fmt: skip
