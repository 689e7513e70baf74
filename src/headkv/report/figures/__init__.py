"""Figures of results: accuracy, bytes, lengths and depths, fidelity, seconds and memory."""
