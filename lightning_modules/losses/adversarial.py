"""Hinge losses of a discriminator and of what it judges, in float32.

Source: Lim & Ye 2017 (arXiv 1705.02894); Esser et al. 2021 (arXiv 2012.09841) for autoencoders.
"""

import torch.nn.functional as F
from torch import Tensor


def discriminator_hinge(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Mean of relu(1 - real) and relu(1 + fake), halved: 1 for a discriminator that says 0 everywhere."""
    return 0.5 * (F.relu(1 - logits_real.float()).mean() + F.relu(1 + logits_fake.float()).mean())


def generator_hinge(logits_fake: Tensor) -> Tensor:
    """What an autoencoder or a generator minimises: minus the mean logit of what it makes."""
    return -logits_fake.float().mean()
