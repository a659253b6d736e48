"""The segmenter: losses in closed form, what is unknown, the threshold, the encoder's start, what may be built."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from datamodules.errors import UserError
from lightning_modules.initialisation import CheckpointInit, ImageNetInit, RandomInit
from lightning_modules.losses.perceptual import load_efficientnet_lite0
from lightning_modules.losses.segmentation import cross_entropies, dice_losses
from lightning_modules.networks.segmentation import SegmentationNetwork
from lightning_modules.segmenter import Segmenter
from tests.refusals import refuses

TINY = {"encoder": "tu-resnet10t", "options": {"decoder_channels": [8, 8, 8, 8, 8]}}


class Fixed(nn.Module):
    """Gives the logits that it was made with, whatever the image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits[: len(images)]


def logits_of(mask, num_levels, sure=20.0):
    return sure * nn.functional.one_hot(mask.clamp_min(0), num_levels).movedim(-1, 1).float()


# -- losses


def test_losses_of_what_is_found_exactly_are_nothing():
    mask = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = logits_of(mask, 3)
    assert torch.allclose(dice_losses(logits, mask), torch.zeros(4), atol=1e-5)
    for gamma in (0.0, 2.0):
        assert torch.allclose(cross_entropies(logits, mask, gamma), torch.zeros(4), atol=1e-5)


def test_losses_by_hand():
    """Probability 1/2 everywhere: Dice (2 * n/2 + 1) / (N/2 + n + 1), cross-entropy log 2, focal a quarter of it."""
    mask = torch.zeros(2, 4, 5, dtype=torch.int64)
    mask[0, :2] = 1
    logits = torch.zeros(2, 2, 4, 5)
    expected = torch.tensor([1 - (10 + 1) / (10 + 10 + 1), 1 - 1 / (10 + 1)])
    assert torch.allclose(dice_losses(logits, mask), expected)
    assert torch.allclose(cross_entropies(logits, mask), torch.full((2,), 2.0).log())
    assert torch.allclose(cross_entropies(logits, mask, 2.0), torch.full((2,), 2.0).log() / 4)


def test_each_image_weighs_the_same_however_large_what_it_shows():
    """Summed over the batch, the small structure that is missed would hardly count beside the large one."""
    mask = torch.zeros(2, 32, 32, dtype=torch.int64)
    mask[0, :, :30], mask[1, 3, 3] = 1, 1
    found = mask.clone()
    found[1] = 0
    losses = dice_losses(logits_of(found, 2), mask)
    assert losses[0] < 1e-3 and losses[1] == pytest.approx(0.5, abs=0.01)  # (0 + 1) / (1 + 1)


def test_what_is_found_in_an_empty_mask_is_punished_the_more_the_more_it_is():
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    found = [mask.clone() for _ in range(3)]
    found[1][0, 0, :4], found[2][0, :4] = 1, 1
    for loss in (dice_losses, cross_entropies):
        values = [float(loss(logits_of(one, 2), mask)) for one in found]
        assert values[0] < 1e-4 and values[0] < values[1] < values[2]


def test_unknown_pixels_change_neither_loss_nor_gradient():
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 3, (3, 8, 8), generator=generator)
    mask[:, :, 4:] = -1
    mask[2] = -1
    logits = torch.randn(3, 3, 8, 8, generator=generator, requires_grad=True)
    other = logits.detach().clone()
    other[:, :, :, 4:] = 9.0
    for loss in (dice_losses, cross_entropies, lambda *given: cross_entropies(*given, 2.0)):
        assert torch.allclose(loss(logits, mask)[:2], loss(other, mask)[:2])
        [gradient] = torch.autograd.grad(loss(logits, mask).sum(), logits)
        assert (gradient[:2, :, :, :4] != 0).any() and (gradient[:, :, :, 4:] == 0).all() and (gradient[2] == 0).all()


def test_an_image_without_a_known_pixel_does_not_thin_out_the_batch():
    mask = torch.randint(0, 2, (2, 8, 8), generator=torch.Generator().manual_seed(2))
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    module = Segmenter(Fixed(logits))
    module.log = lambda *args, **kwargs: None
    alone, _ = module._losses(logits[:1], mask[:1])
    mask[1] = -1
    loss = module.training_step({"image": torch.zeros(2, 3, 8, 8), "mask": mask}, 0)
    assert torch.allclose(loss, alone[0])


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"dice_weight": -1.0}, ("dice_weight", -1.0)),
        ({"focal_gamma": -0.5}, ("focal_gamma", -0.5)),
        ({"cross_entropy_weight": 0.0}, ("cross_entropy_weight", "focal_weight")),
    ],
)
def test_weights_that_mean_nothing_are_refused(settings, facts):
    with refuses(UserError, *facts):
        Segmenter(nn.Identity(), **settings)


# -- use


def test_levels_follow_the_threshold_of_the_background_and_then_the_likeliest():
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.45, 0.3, 0.25], [0.2, 0.1, 0.7]]).T.reshape(1, 3, 1, 3)
    module = Segmenter(Fixed(probabilities.log()))
    images = torch.rand(1, 3, 1, 3)
    assert torch.allclose(module.probabilities(images), probabilities)
    for threshold, levels in ((0.5, [0, 1, 2]), (0.3, [1, 1, 2]), (0.7, [0, 0, 2]), (0.9, [0, 0, 0])):
        module.threshold.fill_(threshold)
        assert module.segment(images).flatten().tolist() == levels and module.segment(images).dtype == torch.int64


def test_two_levels_are_the_sigmoid_of_a_difference():
    logits = torch.randn(2, 2, 4, 4)
    found = Segmenter(Fixed(logits)).probabilities(torch.zeros(2, 3, 4, 4))
    assert torch.allclose(found[:, 1], torch.sigmoid(logits[:, 1] - logits[:, 0]))


def test_the_averaged_network_is_used_in_eval_mode():
    module = Segmenter(SegmentationNetwork(2, **TINY), ema_decay=0.9)
    with torch.no_grad():
        for weight in module.network.parameters():
            weight.zero_()
    image = torch.rand(1, 3, 32, 32)
    assert torch.allclose(module.probabilities(image), module.ema.network(image).softmax(dim=1))
    assert module.training and not module.ema.network.training


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.full((1, 3, 8, 8), 255.0)])
def test_what_are_no_images_is_refused(images):
    with pytest.raises(UserError):
        Segmenter(nn.Identity()).segment(images)


# -- networks


@pytest.mark.parametrize("size", [(33, 70), (64, 64), (7, 5)])
def test_any_size_gives_logits_of_that_size(size):
    network = SegmentationNetwork(3, **TINY).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "DeepLabV3Plus", "Linknet"])
@pytest.mark.parametrize("encoder", ["tu-resnet10t", "mobilenet_v2"])
def test_architectures_and_encoders_by_name_without_a_download(architecture, encoder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    network = SegmentationNetwork(2, architecture, encoder).eval()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_images_are_normalised_inside_as_the_encoder_was_trained():
    network = SegmentationNetwork(2, encoder="tu-tf_efficientnet_lite0").eval()
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(network(image), network.network((image - 0.5) / 0.5))


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"architecture": "Unett"}, ("model.network.architecture", "unett", "'unet'")),
        ({"encoder": "tu-resnett18"}, ("model.network.encoder", "resnett18", "'resnet18'")),
        ({"encoder": "resnet3"}, ("model.network.encoder", "'resnet3'", "resnet34", "tu-<")),
        ({"encoder": "tu-hf-hub:someone/network"}, ("model.network.encoder", "hf-hub:someone/network")),
        ({"options": {"decoder_chanels": [1]}}, ("model.network.options", "'decoder_chanels'", "'decoder_channels'")),
        ({"options": {"encoder_weights": "imagenet"}}, ("model.network.options", "'encoder_weights'")),
        ({"options": {"checkpoint_path": "evil.pth"}}, ("model.network.options", "'checkpoint_path'")),
        ({"options": {"decoder_channels": [8]}}, ("model.network", "decoder_channels=[8]", "resnet10t")),
        ({"num_levels": 1}, (1,)),
    ],
)
def test_what_cannot_be_built_names_the_setting(settings, facts):
    with refuses(UserError, *facts):
        SegmentationNetwork(**{"num_levels": 2, **TINY, **settings})


# -- starts


def test_the_bundled_weights_give_the_published_features():
    network = SegmentationNetwork(2).eval()
    report = ImageNetInit()(network.encoder)
    assert not report.missing and len(report.loaded) == len(network.encoder.model.state_dict())
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    whole = load_efficientnet_lite0().eval()
    with torch.no_grad():
        expected = whole.blocks(whole.bn1(whole.conv_stem(image)))
        assert torch.allclose(network.encoder(image)[-1], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_a_file_of_timm_fits_the_encoder_of_that_name(name, tmp_path):
    """Networks that give the features of each stage name their weights in another way than whole ones."""
    whole = timm.create_model(name, num_classes=0)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None, depth=5)
    report = CheckpointInit(str(tmp_path / "weights.pth"))(encoder)
    assert not [weight for weight in report.missing if "norm" not in weight]
    theirs = [tensor for weight, tensor in whole.state_dict().items() if weight in report.loaded]
    ours = [tensor for tensor in encoder.state_dict().values()]
    assert all(any(one.shape == other.shape and torch.equal(one, other) for other in ours) for one in theirs)


def test_at_random_the_encoder_stays_as_it_is():
    network = SegmentationNetwork(2, **TINY)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    RandomInit()(network.encoder)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
