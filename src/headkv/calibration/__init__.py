"""What is measured once per model: head scores, layer importance, and whether masking hurts."""
