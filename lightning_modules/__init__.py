"""What is learnt: autoencoder, latent diffusion, their networks, losses and mathematics."""
