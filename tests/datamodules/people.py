"""No person is on two sides of a split: what is asked of every source that has people."""

from collections.abc import Collection

from datamodules.manifest import Manifest
from datamodules.splits import split_by_patient

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def check_no_person_is_on_two_sides(index: Manifest, people: Collection[tuple[str, ...]] | None = None) -> None:
    """`people` are the ids of each person's images; without them every image is a person of its own."""
    people = [(name,) for name in index.ids] if people is None else people
    assert sorted(name for person in people for name in person) == sorted(index.ids)
    assert index.num_patients == len(people)
    for seed in range(20):
        manifest = split_by_patient(index, FRACTIONS, seed)
        split = dict(zip(manifest.ids, manifest.splits, strict=True))
        assert all(len({split[name] for name in person}) == 1 for person in people)
        drawn = {("train", "val")} if "val" not in index.splits else set()  # validation is drawn from training
        moved = {(was, now) for was, now in zip(index.splits, manifest.splits, strict=True) if was and was != now}
        assert moved <= drawn
