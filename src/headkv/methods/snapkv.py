"""SnapKV (arXiv 2404.14469): the tokens that the end of the prompt attends to, b for every head."""

from dataclasses import dataclass

from headkv.methods.method import Method


@dataclass(frozen=True, eq=False)
class SnapKV(Method):
    """Exactly the base method: window scores, max-pooled, the same budget for every head."""
