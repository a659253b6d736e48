"""Networks: denoisers, autoencoder, discriminator. Plain PyTorch, no Lightning."""
