"""Prefill once, compress many times, decode all of it together."""
