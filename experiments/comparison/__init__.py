"""What `+exp=compare_runs` works out of any set of runs: curves, groups, tests, tables and a figure."""
