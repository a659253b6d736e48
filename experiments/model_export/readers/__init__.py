"""Scripts that load an exported folder in a process of their own, which knows nothing of this package."""
