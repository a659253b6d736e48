"""The cases of `+exp=benchmark`, a file each."""
