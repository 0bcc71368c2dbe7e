"""Two books to learn and to forget, for the studies of language models."""
