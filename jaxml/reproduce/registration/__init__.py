"""The study of registration: overlap and folds of two brains."""
