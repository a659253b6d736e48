"""The perceptual distance: what it ranks, and that it is neither trained nor saved."""

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from refusals import refuses

from lightning_modules.losses.perceptual import PerceptualLoss, load_efficientnet_lite0


@pytest.fixture(scope="module")
def loss():
    return PerceptualLoss()


@pytest.fixture(scope="module")
def photograph():
    image = torch.from_numpy(skimage.data.retina()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image[..., 200:1200, 200:1200], size=(128, 128), mode="area")


def test_blur_is_farther_than_a_shift_of_brightness_of_the_same_l2(loss, photograph):
    blurred = F.avg_pool2d(F.pad(photograph, (3, 3, 3, 3), mode="replicate"), 7, stride=1)
    rms = (blurred - photograph).square().mean().sqrt()
    brighter = photograph + rms
    assert loss(blurred, photograph) > 3 * loss(brighter, photograph)
    assert loss(photograph, photograph) < 1e-6


def test_a_larger_image_sees_finer_vessels(photograph):
    small = F.interpolate(photograph, size=(64, 64), mode="area")
    blurred = F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    assert PerceptualLoss(upsample=2)(blurred, small) != PerceptualLoss()(blurred, small)


def test_the_weights_know_imagenet(photograph):
    with torch.no_grad():
        logits = load_efficientnet_lite0()((255 * photograph - 127) / 128)
    assert logits.shape == (1, 1000) and logits.softmax(1).max() > 0.1


def test_gradients_reach_the_image_and_nothing_else(loss, photograph):
    image = (photograph[..., :64, :64] + 0.05).requires_grad_()
    loss(image, photograph[..., :64, :64]).backward()
    assert image.grad.abs().sum() > 0
    assert not list(loss.parameters())


def test_frozen_unsaved_and_always_in_eval_mode(loss):
    assert not loss.state_dict()
    holder = torch.nn.Sequential(loss, torch.nn.Linear(1, 1)).train()
    assert not any(module.training for module in loss.modules())
    assert set(holder.state_dict()) == {"1.weight", "1.bias"}
    holder.load_state_dict(holder.state_dict())
    assert loss.stem[0].weight.double().dtype == torch.float64 and next(loss.buffers()).dtype == torch.float32


def test_bad_arguments():
    with refuses(ValueError, "stages=(0, 9)", "0..7"):
        PerceptualLoss(stages=(0, 9))
    with refuses(ValueError, "upsample=0"):
        PerceptualLoss(upsample=0)
