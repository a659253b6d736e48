"""Losses of the autoencoder. Plain PyTorch, no Lightning."""
