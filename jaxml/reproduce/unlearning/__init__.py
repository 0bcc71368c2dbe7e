"""The study of unlearning a book."""
