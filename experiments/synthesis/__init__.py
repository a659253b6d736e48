"""What making a synthetic set takes besides the job itself."""
