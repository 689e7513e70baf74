"""Fetching from elsewhere: pinned wheels, models and data sets of the hub, and their cache."""
