"""The classifier: what moves and how far, unknown labels, resuming, averaged weights, checkpoints."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch import nn
from torch.nn import functional

from lightning_modules.checkpoint import CONFIG_KEY
from lightning_modules.classifier import Classifier, _mixed
from lightning_modules.losses.thresholds import threshold_loss
from lightning_modules.networks.backbone import TimmBackbone

LEVELS = {"dr_grade": 5, "is_gc": 2, "eye_side": 2}
COLUMNS = {"dr_grade": 0, "eye_side": 2}


def make(backbone=None, seed=0, **settings):
    torch.manual_seed(seed)
    backbone = backbone or TimmBackbone("resnet10t", 32, drop_path=0.2)
    plain = {"learning_rate": 1e-3, "lr_schedule": "constant", "seed": 3}
    return Classifier(backbone, COLUMNS, LEVELS, **{**plain, **settings})


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_state(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == theirs and torch.equal(value, same) for (name, value), (theirs, same) in pairs)


@pytest.mark.parametrize("settings", [{}, {"mixup": 0.4, "ema_decay": 0.9, "dropout": 0.3, "class_weights": True}])
def test_a_killed_run_resumes_bit_for_bit(build, tmp_path, settings):
    whole = make(**settings)
    _, steps = build.fit(whole, max_steps=6, checkpoints=tmp_path)
    resumed = make(seed=9, **settings)
    assert build.fit(resumed, max_steps=6, ckpt_path=tmp_path / "step=3.ckpt")[1] == steps[3:]
    assert same_state(whole, resumed)


def test_everything_moves_in_full_fine_tuning(build):
    module = make()
    before = state_of(module.network)
    build.fit(module, max_steps=3)
    moved = {name for name, value in module.network.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in module.network.named_parameters()}


@pytest.mark.parametrize("num_frozen", ["all", 3])
def test_frozen_layers_and_their_batch_statistics_stay(build, num_frozen):
    module = make(num_frozen=num_frozen)
    before = state_of(module.network)
    build.fit(module, max_steps=3)
    layers = module.network.backbone.layers()
    for name, value in module.network.state_dict().items():
        if name.startswith("heads."):
            continue
        parameter = name.removeprefix("backbone.")
        near = parameter.rpartition(".")[0] + ".weight"
        frozen = num_frozen == "all" or layers.get(parameter, layers.get(near, 99)) < 3
        if frozen:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(module.network.heads.offsets, before["heads.offsets"])
    moved = [name for name, value in module.network.named_parameters() if not torch.equal(value, before[name])]
    assert (len(moved) == 2) == (num_frozen == "all")


def test_layers_near_the_image_move_less_with_layer_decay(build):
    """Adam's first step has the size of its rate: the steps of two layers stand in the ratio of their rates."""
    module = make(layer_decay=0.5, weight_decay=0.0)
    before = state_of(module.network.backbone)
    build.fit(module, max_steps=1)
    layers, steps = module.network.backbone.layers(), {}
    for name, value in module.network.backbone.named_parameters():
        moved = (value - before[name]).abs()
        if moved.max() > 0:
            steps.setdefault(layers[name], []).append(float(moved[moved > 0].quantile(0.9)))
    sizes = [np.median(steps[layer]) for layer in sorted(steps)]
    ratios = [later / earlier for earlier, later in zip(sizes, sizes[1:], strict=False)]
    assert len(ratios) > 3 and all(1.6 < ratio < 2.4 for ratio in ratios), ratios


def test_unknown_labels_change_nothing(build):
    batches = build.batches(2)
    hidden = build.batches(2)
    for batch in hidden.batches:
        batch["labels"][:, 1] = 1 - batch["labels"][:, 1].clamp(0, 1)  # is_gc, which is not learnt
    one, other = make(), make()
    assert build.fit(one, batches, 4)[1] == build.fit(other, hidden, 4)[1] and same_state(one, other)
    for batch in hidden.batches:
        batch["labels"][:] = -1
    third = make(weight_decay=0.0)
    _, steps = build.fit(third, hidden, 2)
    assert all(step["train/loss"] == 0 for step in steps)


def test_averaged_weights_are_what_is_measured(build):
    module = make(ema_decay=0.5)
    build.fit(module, max_steps=3)
    batch = build.batches(1).batches[0]
    network = module.ema.network
    expected = network.heads.probabilities(network(batch["image"]))
    found = module.probabilities(batch["image"])
    assert module.measured is network and all(torch.equal(found[name], expected[name]) for name in COLUMNS)
    raw = module.network.eval()
    other = raw.heads.probabilities(raw(batch["image"]))
    assert not torch.equal(found["dr_grade"], other["dr_grade"])
    assert make().measured is not None and make().ema is None


def test_weights_of_levels_are_the_inverse_of_their_share():
    module = make(class_weights=True)
    labels = torch.tensor([[0, 0, -1], [0, 0, 0], [0, 1, 1], [2, 1, 1], [-1, 1, 1]])
    module.weigh(labels)
    assert module.level_weights[0].tolist() == pytest.approx([4 / (2 * 3), 1, 4 / (2 * 1), 1, 1])
    assert module.level_weights[1][:2].tolist() == pytest.approx([4 / (2 * 1), 4 / (2 * 3)])
    known = labels[:, 0] >= 0
    assert float(module.level_weights[0][labels[known, 0]].mean()) == pytest.approx(1)
    plain = make()
    plain.weigh(labels)
    assert (plain.level_weights == 1).all()


def test_the_loss_of_mixed_images_is_the_mixture_of_their_losses():
    """Against both labels, each masked and weighted as its own image is; share and partner are read off the images."""
    torch.manual_seed(0)
    image = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 2, 2) ** 2
    targets, known = torch.rand(6, 3), torch.rand(6, 3) > 0.4
    weights, logits, finding = torch.rand(6, 3) * 9, torch.randn(6, 3), torch.arange(3)
    mixed, soft, shares, amounts = _mixed(0.5, np.random.default_rng(0), image, targets, known, known * weights)
    stream = np.random.default_rng(0)
    share, order = stream.beta(0.5, 0.5), stream.permutation(6)
    assert torch.allclose(mixed, share * image + (1 - share) * image[order])
    losses = [functional.binary_cross_entropy_with_logits(logits, targets[rows], reduction="none") * known[rows] *
              weights[rows] for rows in (np.arange(6), order)]  # fmt: skip
    wanted = (share * losses[0] + (1 - share) * losses[1]).sum() / known.sum()
    assert float(threshold_loss(logits, soft, shares, finding, amounts)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_validation_loss_is_over_what_is_known(build):
    """Batches that know more weigh more; one that knows nothing changes nothing."""
    module = make(weight_decay=0.0)
    batches = build.batches(3)
    batches.batches[1]["labels"][1:] = -1
    batches.batches[2]["labels"][:] = -1
    trainer, _ = build.fit(module, max_steps=1)
    [found] = trainer.validate(module, batches, verbose=False)
    network, total, number = module.measured.eval(), 0.0, 0
    for batch in batches.batches:
        targets, known = network.heads.targets(batch["labels"])
        losses = functional.binary_cross_entropy_with_logits(network(batch["image"]), targets, reduction="none") * known
        for finding in network.heads.finding.unique():
            mine = network.heads.finding == finding
            total += float(losses[:, mine].mean(dim=1).sum())
            number += int(known[:, mine].all(dim=1).sum())
    assert found["val/loss"] == pytest.approx(total / number, rel=1e-4)


def test_a_checkpoint_holds_plain_things(build, tmp_path):
    module = make()
    module.config = {"model": {"classifier": {"seed": 3}}}
    build.fit(module, max_steps=1, checkpoints=tmp_path)
    state = torch.load(tmp_path / "step=1.ckpt", weights_only=True)
    assert state[CONFIG_KEY] == module.config
    with refuses(
        ValueError, "Classifier", "network.backbone.network.layer1.0.conv1.weight", (64, 64, 1, 1), (64, 64, 3, 3)
    ):
        make(TimmBackbone("resnet14t", 32)).on_load_checkpoint(state)


class Own(nn.Module):
    """A user's network, with nothing but what is asked for."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, images):
        return self.body(self.stem(images).mean((2, 3)))


def test_a_users_network_trains(build):
    module = make(Own(), layer_decay=0.5)
    assert len(build.fit(module, max_steps=2, validate=True)[1]) == 2
    rates = sorted({group["lr"] for group in module.trainer.optimizers[0].param_groups})
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 1e-3])


def test_warm_up_may_be_given_in_epochs(build):
    module = make(warmup_epochs=1.0)
    trainer, _ = build.fit(module, max_steps=-1, max_epochs=3)
    factors = [trainer.lr_scheduler_configs[0].scheduler.lr_lambdas[0](step) for step in range(6)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"layer_decay": 0.0}, ["layer_decay=0.0", "(0, 1]"]),
        ({"label_smoothing": 1.0}, ["label_smoothing=1.0"]),
        ({"mixup": -1.0}, ["mixup=-1.0"]),
        ({"num_frozen": "most"}, ["num_frozen='most'", "'all'"]),
        ({"num_frozen": 77}, ["num_frozen=77", "5 layers"]),
    ],
)
def test_settings_that_cannot_be(settings, facts):
    with refuses(ValueError, *facts):
        make(**settings)
