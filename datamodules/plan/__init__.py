"""What the images of a synthetic set are to show: laws that say so, and the plan that is written by one."""
