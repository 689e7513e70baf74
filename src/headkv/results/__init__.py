"""Looking after a results folder: list, verify, merge, tidy."""
