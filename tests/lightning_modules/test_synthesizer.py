"""The synthesizer: an image follows from its row, and one that does not agree is drawn again from a known seed."""

import pytest
import torch
from refusals import refuses

from lightning_modules.randomness import stable_seed
from lightning_modules.synthesizer import Agreement, Synthesizer


class Painter(torch.nn.Module):
    """In the place of a generator: an image of one grey, which follows from its seed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def sample(self, condition, seeds):
        self.calls.append(seeds.tolist())
        return (seeds.float() % 1000 / 1000).reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()


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
        def sample(self, condition, seeds):
            images = super().sample(condition, seeds)
            images[1] = torch.nan
            return images

    with refuses(FloatingPointError, "seed 8", "job.precision=32"):
        Synthesizer(Broken()).predict_step(rows([7, 8], [[1], [1]]))


@pytest.mark.parametrize("settings", [{"max_attempts": 0}, {"image_size": 4}])
def test_settings_that_mean_nothing(settings):
    with refuses(ValueError, *(f"{key}={value}" for key, value in settings.items())):
        Synthesizer(Painter(), **settings)
