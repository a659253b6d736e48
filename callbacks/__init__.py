"""What is measured and kept: callbacks, and the metrics they compute."""
