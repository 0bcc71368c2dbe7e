"""Bytes that nobody vouches for, read without running them, and files written whole."""
