"""Methods by benchmarks by share of the cache, from all results of a folder."""
