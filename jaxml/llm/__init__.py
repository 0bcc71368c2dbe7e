"""Unlearning, measures and scores of language models of the Llama family."""
