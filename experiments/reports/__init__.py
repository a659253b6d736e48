"""Pages of a run, from templates."""
