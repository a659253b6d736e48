"""The cells of a transfer study, and what came of them."""
