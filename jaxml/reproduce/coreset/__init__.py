"""The study of the coreset effect."""
