"""One HTML file that shows what lies in a results folder; opens from disk, asks no network."""
