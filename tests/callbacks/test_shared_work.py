"""Work shared out over processes by files: dealt out once, counted, waited for, and left clean."""

import json
import os
import threading
import time
from types import SimpleNamespace

from refusals import refuses

import callbacks.shared_work as module
from callbacks.locks import alone
from callbacks.shared_work import SharedWork


def of_rank(rank: int, world_size: int = 2) -> SimpleNamespace:
    return SimpleNamespace(global_rank=rank, world_size=world_size, is_global_zero=rank == 0)


def start(root, rank: int, world_size: int = 2) -> tuple[SharedWork, SimpleNamespace]:
    work, trainer = SharedWork(root, "painting", every_seconds=0.0), of_rank(rank, world_size)
    if rank == 0:
        work.begin()
        work.hand_out([3, 5, 8], 30)
    work.setup(trainer, None, "predict")
    work.on_predict_start(trainer, None)
    return work, trainer


def do(work: SharedWork, trainer, num_images: int) -> None:
    work.on_predict_batch_end(trainer, None, {"image": [0] * num_images}, {}, 0)


def test_all_see_what_the_first_hands_out_and_it_waits_for_them(tmp_path, capsys):
    first, there = start(tmp_path, 0)
    second, elsewhere = start(tmp_path, 1)
    assert first.items() == second.items() == [3, 5, 8]
    do(first, there, 10)
    do(second, elsewhere, 7)
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (first.on_predict_end(there, None), done.set()))
    waiting.start()
    assert not done.wait(0.3), "the second is not done yet"
    do(second, elsewhere, 13)
    second.on_predict_end(elsewhere, None)
    assert done.wait(5)
    waiting.join()
    assert first.speed(there)["images"] == 30 and first.speed(there)["images_per_second"] > 0
    said = capsys.readouterr().err
    assert "painting on 2 processes" in said and "30/30" in said
    first.clear()
    assert not list(tmp_path.iterdir())


def test_a_process_without_a_share_is_not_waited_for(tmp_path):
    """Lightning skips all of predict where there is nothing to predict, but for the end."""
    first, there = start(tmp_path, 0)
    second, elsewhere = SharedWork(tmp_path, "painting"), of_rank(1)
    second.setup(elsewhere, None, "predict")
    second.teardown(elsewhere, None, "predict")
    do(first, there, 30)
    first.on_predict_end(there, None)
    first.teardown(there, None, "predict")
    assert first.speed(there)["images"] == 30


def test_of_a_process_that_stays_silent_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "SILENCE", 0.1)
    first, there = start(tmp_path, 0)
    second, elsewhere = start(tmp_path, 1)
    waiting = threading.Thread(target=lambda: first.on_predict_end(there, None))
    waiting.start()
    time.sleep(0.5)
    second.on_predict_end(elsewhere, None)
    waiting.join(5)
    assert not waiting.is_alive() and "still waiting for process 1" in capsys.readouterr().out


def test_alone_nothing_is_waited_for_or_left(tmp_path):
    work, trainer = start(tmp_path, 0, world_size=1)
    do(work, trainer, 30)
    work.on_predict_end(trainer, None)
    assert work.speed(trainer)["images"] == 30
    assert [path.name for path in (tmp_path / SharedWork.FOLDER).iterdir()] == ["items.json"]


def test_what_a_killed_run_left_is_taken_away_unless_some_of_it_lives(tmp_path):
    first, _ = start(tmp_path, 0)
    second, elsewhere = start(tmp_path, 1)
    second.on_predict_end(elsewhere, None)  # done, and gone
    third, last = SharedWork(tmp_path, "painting"), of_rank(1)
    third.setup(last, None, "predict")
    with refuses(ValueError, repr(str(tmp_path)), f"{os.getpid()} on", "by kill"):
        SharedWork(tmp_path, "painting").begin()
    assert (tmp_path / ".progress/items.json").is_file(), "nothing was touched"
    third.on_exception(last, None, KeyboardInterrupt())
    SharedWork(tmp_path, "painting").begin()
    assert not (tmp_path / ".progress").exists()


def test_the_bar_counts_what_others_have_left(tmp_path):
    first, there = start(tmp_path, 0)
    (tmp_path / ".progress/1.json").write_text("half of wh")  # as a network's file system may show it
    do(first, there, 4)
    assert first._bar.n == 4
    (tmp_path / ".progress/1.json").write_text(json.dumps({"images": 6, "is_done": False}))
    time.sleep(0.01)
    do(first, there, 4)
    assert first._bar.n == 14
    first.on_exception(there, None, KeyboardInterrupt())


def test_a_link_in_a_folder_from_elsewhere_is_not_written_through(tmp_path):
    mine, root = tmp_path / "mine", tmp_path / "set"
    mine.mkdir()
    root.mkdir()
    (mine / "notes").write_text("mine")
    (mine / "at_work").write_text("mine too")
    (root / ".lock").symlink_to(mine / "notes")
    with refuses(ValueError, root / ".lock", mine / "notes"), alone(root):
        pass
    work = SharedWork(root, "painting")
    work.folder.symlink_to(mine)
    for call in (work.begin, lambda: work.hand_out([1], 1)):
        with refuses(ValueError, work.folder, repr(str(mine))):
            call()
    assert {path.name: path.read_text() for path in mine.iterdir()} == {"notes": "mine", "at_work": "mine too"}


def test_items_that_are_damaged_are_named(tmp_path):
    work = SharedWork(tmp_path, "work")
    work.hand_out([1], 1)
    (work.folder / "items.json").write_text('{"0": 1}')
    with refuses(ValueError, "items.json", {"0": 1}, "list"):
        work.items()
