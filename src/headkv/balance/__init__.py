"""How evenly compressed heads share out over tensor-parallel ranks: a model, not a measurement."""
