"""What becomes of kept and evicted entries, one file each; the default gathers what is kept."""
