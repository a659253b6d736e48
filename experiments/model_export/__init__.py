"""A checkpoint as a folder that others can use: what `export_model` writes, and how that is seen to be the original."""
