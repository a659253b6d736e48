"""The synthesizer: an image follows from its row, and one that does not agree is drawn again from a known seed."""

import pytest
import torch
from refusals import refuses

from datamodules.errors import UserError
from lightning_modules.condition import Condition, Pairs
from lightning_modules.masks import mask_dice
from lightning_modules.randomness import stable_seed
from lightning_modules.synthesizer import Agreement, MaskFilter, Synthesizer


class Painter(torch.nn.Module):
    """In the place of a generator: an image of one grey, which follows from its seed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def sample_pairs(self, condition, seeds):
        self.calls.append(seeds.tolist())
        return Pairs((seeds.float() % 1000 / 1000).reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone(), condition.mask)


class Reader:
    """In the place of an annotator: a finding is present, and a grade high, in bright images."""

    def annotate(self, images):
        grey = images.mean((1, 2, 3))
        grade = torch.zeros(len(images), 5)
        grade[torch.arange(len(images)), (grey * 5).long().clamp(0, 4)] = 1
        return {"is_gc": torch.stack([1 - grey, grey], 1), "dr_grade": grade}


def rows(seeds, labels) -> dict:
    return {"seed": torch.tensor(seeds), "labels": torch.tensor(labels), "index": torch.arange(len(seeds))}


def test_without_a_filter_each_image_is_made_once():
    found = Synthesizer(Painter()).predict_step(rows([100, 900], [[1], [0]]))
    assert found["image"].dtype == torch.uint8 and found["image"][:, 0, 0, 0].tolist() == [26, 230]
    assert found["seed"].tolist() == [100, 900] and found["attempts"].tolist() == [1, 1] and "accepted" not in found


def test_images_that_disagree_are_drawn_again_until_they_agree_or_the_limit_is_reached():
    painter = Painter()
    batch = rows([900, 100, 100, 100], [[1], [1], [-1], [1]])
    found = Synthesizer(painter, Agreement(Reader(), {"is_gc": 0}), max_attempts=4).predict_step(batch)
    expected_seed, expected_attempts, expected = [], [], []
    for seed, label in zip([900, 100, 100, 100], [1, 1, -1, 1], strict=True):
        tried = [seed, *(stable_seed("redraw", seed, attempt) for attempt in (2, 3, 4))]
        good = [n for n, s in enumerate(tried) if label < 0 or (s % 1000 / 1000 >= 0.5) == label]
        expected.append(bool(good))
        expected_attempts.append(good[0] + 1 if good else 4)
        expected_seed.append(tried[expected_attempts[-1] - 1])
    assert found["accepted"].tolist() == expected and found["attempts"].tolist() == expected_attempts
    assert found["seed"].tolist() == expected_seed
    assert expected_attempts[1] > 1  # something was drawn again
    # The seed that is recorded is that of the image that is there.
    again = Synthesizer(painter).predict_step({**batch, "seed": found["seed"]})
    assert torch.equal(again["image"], found["image"])


def test_what_is_drawn_again_does_not_depend_on_the_batch():
    synthesizer = Synthesizer(Painter(), Agreement(Reader(), {"is_gc": 0}), max_attempts=3)
    seeds, labels = list(range(0, 2000, 37)), [[n % 2] for n in range(55)]
    whole = synthesizer.predict_step(rows(seeds, labels))
    for start in range(0, 55, 10):
        part = synthesizer.predict_step(rows(seeds[start : start + 10], labels[start : start + 10]))
        for name, values in part.items():
            assert torch.equal(values, whole[name][start : start + 10]), name


@pytest.mark.parametrize(("tolerance", "agrees"), [(0, [True, False, False]), (1, [True, True, False])])
def test_grades_may_be_off_by_the_tolerance(tolerance, agrees):
    images = torch.tensor([0.9, 0.7, 0.1]).reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    found = Agreement(Reader(), {"dr_grade": 0}, tolerance=tolerance)(images, torch.tensor([[4], [4], [4]]))
    assert found.tolist() == agrees


def test_images_are_resized_after_the_annotator_has_seen_them():
    sizes = []

    class Sees(Reader):
        def annotate(self, images):
            sizes.append(images.shape[-1])
            return super().annotate(images)

    found = Synthesizer(Painter(), Agreement(Sees(), {"is_gc": 0}), image_size=12).predict_step(rows([900], [[1]]))
    assert found["image"].shape == (1, 3, 12, 12) and sizes == [8]
    assert ((found["image"].int() - 230).abs() <= 1).all()


def test_a_generator_that_has_diverged_is_named():
    class Broken(Painter):
        def sample_pairs(self, condition, seeds):
            pairs = super().sample_pairs(condition, seeds)
            pairs.images[1] = torch.nan
            return pairs

    with refuses(FloatingPointError, "seed 8", "job.precision=32"):
        Synthesizer(Broken()).predict_step(rows([7, 8], [[1], [1]]))


@pytest.mark.parametrize("settings", [{"max_attempts": 0}, {"image_size": 4}])
def test_settings_that_mean_nothing(settings):
    with refuses(ValueError, *(f"{key}={value}" for key, value in settings.items())):
        Synthesizer(Painter(), **settings)


class Brightness:
    """In the place of a segmenter: level 1 in the upper half of bright images, in the lower half of others."""

    def segment(self, images):
        found = torch.zeros(len(images), *images.shape[2:], dtype=torch.int64)
        bright = images.mean((1, 2, 3)) >= 0.5
        found[bright, :4], found[~bright, 4:] = 1, 1
        return found


def test_pairs_whose_mask_is_not_found_are_drawn_again():
    mask = torch.zeros(4, 8, 8, dtype=torch.int64)
    mask[:2, :4], mask[2:, 4:] = 1, 1  # two that ask for bright images, two for dark ones
    seeds = [900, 100, 900, 100]
    batch = {**rows(seeds, [[0]] * 4), "mask": mask}
    painter = Painter()
    found = Synthesizer(painter, max_attempts=5, mask_filter=MaskFilter(Brightness(), 0.7)).predict_step(batch)
    for place, seed in enumerate(seeds):
        tried = [seed, *(stable_seed("redraw", seed, attempt) for attempt in (2, 3, 4, 5))]
        good = [n for n, s in enumerate(tried) if (s % 1000 / 1000 >= 0.5) == (place < 2)]
        assert bool(found["accepted"][place]) == bool(good)
        assert int(found["attempts"][place]) == (good[0] + 1 if good else 5)
    assert torch.equal(found["mask"], mask.to(torch.uint8)) and found["attempts"].tolist()[0] == 1


def test_both_filters_have_to_accept():
    mask = torch.zeros(2, 8, 8, dtype=torch.int64)
    mask[0, :4], mask[1, 4:] = 1, 1
    both = Synthesizer(Painter(), Agreement(Reader(), {"is_gc": 0}), 1, mask_filter=MaskFilter(Brightness(), 0.7))
    found = both.predict_step({**rows([900, 900], [[1], [1]]), "mask": mask})
    assert found["accepted"].tolist() == [True, False]


def test_masks_are_resized_with_their_images_and_unknown_pixels_have_a_value_of_their_own():
    mask = torch.zeros(1, 8, 8, dtype=torch.int64)
    mask[0, :4, :4], mask[0, 7] = 2, -1
    found = Synthesizer(Painter(), image_size=16).predict_step({**rows([5], [[0]]), "mask": mask})
    large = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(found["mask"].long(), torch.where(large < 0, 255, large)) and found["image"].shape[-1] == 16


def test_dice_of_masks_by_hand():
    asked = torch.zeros(5, 4, 4, dtype=torch.int64)
    found = asked.clone()
    asked[0, :2], found[0, 1:3] = 1, 1  # half of each
    asked[1, 0], found[1, 0], asked[1, 3] = 1, 1, 2  # one level found, the other missed
    asked[2, 0] = 1  # nothing found
    found[3, 0] = 1  # nothing asked for
    asked[4, 0], asked[4, 1], found[4, :2] = 1, -1, 1  # what is unknown does not count
    assert mask_dice(found, asked).tolist() == [0.5, 0.5, 0.0, 0.0, 1.0]
    assert mask_dice(torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.int64)).tolist() == [1.0]


def test_a_filter_of_masks_that_means_nothing():
    with refuses(UserError, "least_dice=0"):
        MaskFilter(Brightness(), 0)
    assert Condition.of({"labels": torch.zeros(1, 1), "mask": None}).mask is None
