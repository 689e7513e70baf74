"""Latency and memory of a model under each cache: what is measured, and how."""
