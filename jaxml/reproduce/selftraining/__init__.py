"""The study of self-training on a poisoned set."""
