"""The cells of a segmentation study, what came of them, and its page."""
