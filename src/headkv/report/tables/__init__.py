"""Tables of finished text: what stands in them, their order, and their three formats."""
