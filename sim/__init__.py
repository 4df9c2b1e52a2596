"""From a job file to results: build, run, compare, report."""
