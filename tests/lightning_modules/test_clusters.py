"""Clusters as a condition: seen, hidden, drawn as often as in training, kept in the checkpoint, refused."""

import pytest
import torch
from refusals import refuses

from datamodules.errors import UserError
from lightning_modules.clusters import UNKNOWN, ClusterConditioning
from lightning_modules.condition import Condition

LABELS = torch.zeros(3, 3, dtype=torch.int64)
CENTRES, COUNTS = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 9.0]]), torch.tensor([10, 60, 30])


@pytest.fixture
def make(build):
    """A generator with three clusters, to which all images of the batches are assigned in turn."""

    def made(masks="", **settings):
        torch.manual_seed(5)
        clusters = ClusterConditioning(3, 8, 2, **settings)
        module = build.diffusion(masks=masks, num_steps=2, clusters=clusters)
        module.fit_clusters(CENTRES, COUNTS)
        ids = [name for batch in build.batches().batches for name in batch["id"]]
        module.network.clusters.assign({name: n % 3 for n, name in enumerate(ids)})
        return module

    return made


def test_the_cluster_is_nearest_and_images_are_known_by_their_ids(make):
    clusters = make().network.clusters
    features = torch.tensor([[1.0, 1.0], [3.0, 1.0], [1.0, 8.0], [2.1, 0.0]])
    assert clusters.nearest(features).tolist() == [0, 1, 2, 1]
    assert clusters.of(["0-1", "1-0", "somebody's"]).tolist() == [1, 2, UNKNOWN]


def test_clusters_are_drawn_as_often_as_in_training_each_from_its_seed(make):
    clusters = make().network.clusters
    drawn = clusters.drawn(range(20_000))
    assert torch.bincount(drawn, minlength=3) / 20_000 == pytest.approx(COUNTS / 100, abs=0.01)
    assert clusters.drawn([7, 3]).tolist() == [drawn[7], drawn[3]]


def test_a_sampling_follows_the_cluster_that_is_asked_for_or_drawn(build, make):
    module = make()
    build.fit(module)
    seeds, others = [1, 2, 3], torch.tensor([0, 1, 2])
    asked = module.sample(Condition(LABELS, cluster=others), seeds)
    assert not torch.equal(asked, module.sample(Condition(LABELS, cluster=others.roll(1)), seeds))
    nothing = module.sample(Condition(LABELS, cluster=torch.full((3,), UNKNOWN)), seeds)
    drawn = Condition(LABELS, cluster=module.network.clusters.drawn(seeds))
    assert torch.equal(module.sample(LABELS, seeds), module.sample(drawn, seeds))
    assert not torch.equal(module.sample(drawn, seeds), nothing)
    assert torch.equal(drawn[[2, 0]].cluster, drawn.cluster[[2, 0]]) and drawn.to("cpu").cluster.equal(drawn.cluster)


def test_unknown_says_nothing_at_first_and_is_what_guidance_goes_from(make):
    network = make().network
    unknown = Condition(LABELS, cluster=torch.full((3,), UNKNOWN))
    assert torch.equal(network.condition(unknown), network.conditioning(LABELS))
    assert torch.equal(network.condition(LABELS), network.condition(unknown))
    first = network.condition(Condition(LABELS, cluster=torch.tensor([0, 1, 2])))
    assert len(first.unique(dim=0)) == 3


def test_training_hides_the_cluster_where_labels_are_hidden_and_of_a_share_of_others(build, make):
    module, seen = make(dropout=0.25), []
    module.network.clusters.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    part = type("All", (), {"of": staticmethod(lambda draw, num: draw(num))})
    given = Condition(torch.zeros(4000, 3, dtype=torch.int64), cluster=torch.arange(4000) % 3)
    hidden = torch.zeros(4000, 3, dtype=torch.bool)
    hidden[:1000], hidden[1000:2000, 0] = True, True
    shown = module._shown(given, hidden, part, torch.Generator().manual_seed(0)).cluster
    assert (shown[:1000] == UNKNOWN).all()
    assert (shown[1000:] == UNKNOWN).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(shown[shown >= 0], given.cluster[shown >= 0])
    before = module.network.clusters.embedding.weight.clone()
    build.fit(module, validate=True)
    assert len(seen) == 6 and not torch.equal(module.network.clusters.embedding.weight, before)


@pytest.mark.parametrize("masks", ["", "condition"])
def test_a_killed_run_resumes_bit_for_bit_with_its_clusters(build, make, tmp_path, masks):
    whole = make(masks)
    build.fit(whole, build.batches(masks=True), checkpoints=tmp_path)
    resumed = make(masks)
    resumed.fit_clusters(CENTRES + 1, COUNTS + 1)
    build.fit(resumed, build.batches(masks=True), ckpt_path=tmp_path / "step=3.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert torch.equal(resumed.ema.network.clusters.counts, COUNTS)


def test_without_clusters_nothing_is_drawn_for_them(build, make):
    """The noise and hidden labels of a run do not depend on whether there is code for clusters."""
    plain, clustered = build.diffusion(), make()
    clustered.network.clusters.embedding.weight.data.zero_()
    plain_steps, steps = (build.fit(module, max_steps=1)[1] for module in (plain, clustered))
    assert plain_steps == steps, "drawn last, so that what is drawn before stays the same"


def test_inpainting_goes_on_from_no_cluster_where_none_is_asked_for(build, make):
    module = make("condition")
    batch = build.batches(size=3, masks=True).batches[0]
    condition, seeds = Condition.of(batch), [1, 2, 3]
    unknown = Condition(condition.labels, condition.mask, torch.full((3,), UNKNOWN))
    where = batch["mask"] > 0
    found = [module.inpaint(batch["image"], where, each, seeds).images for each in (condition, unknown)]
    assert torch.equal(*found)


def test_what_does_not_fit_is_refused(build, make):
    for number in (1, 2.5, True):
        with refuses(UserError, f"model.clusters={number}"):
            ClusterConditioning(number, 8, 2)
    with refuses(UserError, "dropout=2"):
        ClusterConditioning(3, 8, 2, dropout=2)
    module = make()
    with refuses(UserError, "[3, 2]", "[4, 2]"):
        module.fit_clusters(torch.zeros(4, 2), torch.ones(4, dtype=torch.int64))
    with refuses(UserError, "[5, 0, 1]"):
        module.fit_clusters(CENTRES, torch.tensor([5, 0, 1]))
    with refuses(UserError, "cluster[1]=3", "2"):
        module.sample(Condition(LABELS, cluster=torch.tensor([0, 3, 1])), [1, 2, 3])
    with refuses(UserError, "[2]", "[3]"):
        module.sample(Condition(LABELS, cluster=torch.tensor([0, 1])), [1, 2, 3])
    module.network.clusters.counts.zero_()
    with refuses(UserError, "fit_clusters"):
        build.fit(module)
