"""The parts of `+exp=evaluate`: the two datasets, what is measured of them, and the pages."""
