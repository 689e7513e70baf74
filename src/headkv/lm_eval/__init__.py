"""lm-evaluation-harness on a compressed cache (extra `lm-eval`)."""
