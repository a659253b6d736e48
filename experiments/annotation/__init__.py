"""What `+exp=annotate` is made of: the annotators, the ceiling on real images, what is measured of a set."""
