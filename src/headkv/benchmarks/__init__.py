"""Benchmarks: where questions come from and how answers are scored. One file, one benchmark."""
