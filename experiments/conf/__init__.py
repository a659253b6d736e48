"""Configuration files of Hydra."""
