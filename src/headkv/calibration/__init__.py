"""Which heads retrieve: tests to run, attention to watch, scores to sum up."""
