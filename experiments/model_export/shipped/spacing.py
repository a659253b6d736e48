# SPDX-License-Identifier: Apache-2.0
"""Stands for `spacing.py`, which lies beside the pipeline once it is exported."""

from lightning_modules.diffusion.spacing import LARGEST_SIGMA, spaced_timesteps

__all__ = ["LARGEST_SIGMA", "spaced_timesteps"]
