"""Files that are copied into an exported generator as they are, and run there with diffusers and torch alone."""
