"""The guide: its likelihood and gradient by hand, and that it leads samples to their labels."""

import pytest
import torch
from refusals import refuses

from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import ClassifierGuidance, build_scheduler, sample
from lightning_modules.diffusion.schedule import Schedule
from lightning_modules.networks.latent_classifier import LatentClassifier


def classifier(seed=0, **settings):
    torch.manual_seed(seed)
    return LatentClassifier(2, [2, 3], channels=[8, 16], **settings).eval()


def inputs(num=3, size=8):
    stream = torch.Generator().manual_seed(1)
    return torch.randn(num, 2, size, size, generator=stream), torch.rand(num, generator=stream) * 999


def test_the_likelihood_is_that_of_all_known_labels():
    network, (x_t, t) = classifier(), inputs()
    labels = torch.tensor([[1, 2], [-1, 0], [-1, -1]])
    logits = network(x_t, t)
    first, second = logits[:, :2].softmax(1), logits[:, 2:].softmax(1)
    expected = torch.stack([(first[0, 1] * second[0, 2]).log(), second[1, 0].log(), torch.tensor(0.0)])
    torch.testing.assert_close(network.log_likelihood(x_t, t, labels), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_gradient_is_that_of_small_steps(mode):
    network, exact, (x_t, t), step = classifier(), classifier().double(), inputs(), 1e-3
    labels = torch.tensor([[1, 2], [0, -1], [-1, -1]])
    with mode():
        found = network.gradient(x_t, t, labels)
    for place in [(0, 0, 3, 4), (0, 1, 7, 7), (1, 0, 0, 0)]:
        moved = [x_t.double().clone() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        with torch.no_grad():
            up, down = (exact.log_likelihood(x, t.double(), labels).double().sum() for x in moved)
        assert found[place] == pytest.approx(float(up - down) / (2 * step), rel=0.02, abs=1e-3)
    assert (found[2] == 0).all(), "of an image of which nothing is known"
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_any_size(size):
    assert classifier()(*inputs(size=size)).shape == (3, 5)


@pytest.mark.parametrize(
    "prediction, name, num_steps", [("v", "dpm_solver", 40), ("epsilon", "ddim", 200), ("x0", "dpm_solver", 40)]
)
def test_an_exact_classifier_leads_an_unconditional_model_to_the_component_that_is_asked_for(
    build, prediction, name, num_steps
):
    """Of a mixture of two Gaussians: with scale 1 it is the one, with its deviation."""
    objective = Objective(Schedule("cosine"), prediction)

    def gradient(x_t, t):
        """Of log p(component 0 | x_t)."""
        with torch.enable_grad():
            x = x_t.double().flatten(1).requires_grad_()
            a = objective.schedule.alpha_bar[t.long()].sqrt()[:, None]
            variance = a**2 * build.std**2 + 1 - a**2
            logits = -(x[:, None] - a[:, None] * build.means.double()).square().sum(-1) / (2 * variance)
            return torch.autograd.grad(logits.log_softmax(1)[:, 0].sum(), x)[0].view_as(x_t).float()

    def drawn(scale):
        noise = torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(0))
        scheduler = build_scheduler(name, objective, num_steps)
        return sample(
            build.mixture_denoiser(objective), noise, torch.zeros(2000, 1), None, scheduler, num_steps,
            spacing="log_snr" if name == "dpm_solver" else "trailing",
            classifier=ClassifierGuidance(gradient, scale),
        ).flatten(1)  # fmt: skip

    guided = drawn(1.0)
    assert (guided.mean(0) - build.means[0]).abs().max() < 0.05
    assert (guided.std(0) / build.std - 1).abs().max() < 0.1
    assert (drawn(0.0).mean(0) - build.means.mean(0)).abs().max() < 0.1


def test_it_is_trained_along_and_changes_nothing_of_the_denoiser(build):
    plain, guided = build.diffusion("unet"), build.diffusion("unet", guide=True)
    start = {name: tensor.clone() for name, tensor in guided.network.guide.named_parameters()}
    (_, before), (_, after) = build.fit(plain, validate=True), build.fit(guided, validate=True)
    assert [step["train/loss"] for step in before] == [step["train/loss"] for step in after]
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(tensor, guided.network.state_dict()[name]), name
    assert all(not torch.equal(start[name], tensor) for name, tensor in guided.network.guide.named_parameters())
    assert "train/guide" in after[0] and "train/guide" not in before[0]


def test_it_learns_its_batches_and_guides(build):
    module = build.diffusion("unet", guide=True, learning_rate=1e-2, ema_decay=0.9)
    labels = torch.tensor([[0, 0, 0], [4, 1, 1]]).repeat(4, 1)
    latents = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3)).repeat(4, 1, 1, 1)
    batch = {"latent_mean": latents, "latent_std": torch.zeros_like(latents), "labels": labels}

    def loss():
        with torch.no_grad():
            clean = module.autoencoder.standardise(latents)
            return module.ema.network.guide_loss(clean, torch.zeros(len(clean)), labels)

    before = loss()
    build.fit(module, type(build.batches())([batch]), max_steps=100)
    assert loss() < 0.1 * before
    labels = torch.tensor([[0, 0, 0], [4, 1, 1]])
    free = module.sample(labels, [1, 2])
    module.sample_by(classifier_scale=3.0)
    guided = module.sample(labels, [1, 2])
    assert not torch.allclose(free, guided)
    module.sample_by(classifier_findings=[])
    assert torch.equal(module.sample(labels, [1, 2]), free), "which acts on none"
    module.sample_by(classifier_findings=["eye_side"])
    assert not torch.allclose(module.sample(labels, [1, 2]), free)
    module.sample_by(classifier_findings=dict.fromkeys(module.network.conditioning.names, 1.0))
    torch.testing.assert_close(module.sample(labels, [1, 2]), guided)
    module.sample_by(classifier_scale=1.0, classifier_findings=dict.fromkeys(module.network.conditioning.names, 3.0))
    torch.testing.assert_close(module.sample(labels, [1, 2]), guided, msg="a weight is a factor of the scale")
    module.sample_by(classifier_scale=3.0, classifier_findings=None)
    both, alone = (module.sample(torch.full((num, 3), -1), list(range(1, 1 + num))) for num in (2, 1))
    torch.testing.assert_close(both[:1], alone, atol=1 / 255, rtol=0)


def test_errors(build):
    with refuses(ValueError, "classifier_scale=2", "without model.guide"):
        build.diffusion("unet").sample_by(classifier_scale=2.0)
    guided = build.diffusion("unet", guide=True)
    with refuses(ValueError, "classifier_findings='eyeside'", "'eye_side'"):
        guided.sample_by(classifier_findings=["eyeside"])
    with refuses(ValueError, "classifier_findings.eye_side=-1"):
        guided.sample_by(classifier_findings={"eye_side": -1})
    with refuses(ValueError, "guidance_rescale=2"):
        guided.sample_by(guidance_rescale=2)
    with refuses(ValueError, "classifier_interval=(0.5, 0.2)"):
        guided.sample_by(classifier_interval=(0.5, 0.2))
    with refuses(ValueError, "classifier_scale=-1"):
        guided.sample_by(classifier_scale=-1.0)
