"""The study of backdoor detection: which method finds the poisoned rows."""
