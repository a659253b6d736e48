"""Distances between sets of features: tensors in, numbers out."""
