"""Numbers: means with intervals, paired tests, best cells. Knows nothing of how they look."""
