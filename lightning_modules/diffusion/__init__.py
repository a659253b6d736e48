"""The mathematics of diffusion: schedule, objective, sampling. Plain PyTorch, no Lightning."""
