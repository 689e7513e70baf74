"""Perplexity of long text while the cache is cut again and again to a fixed size."""
