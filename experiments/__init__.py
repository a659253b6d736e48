"""What is run: the configuration, the one entry point, and one job a file."""

import os

# Set before torch starts its threads. A thread that waits for another gives its processor away after some microseconds.
# Without this, threads spin at every barrier, and training beside another busy program loses a third of its speed.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
