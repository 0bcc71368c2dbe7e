"""Training, poisoning and scoring of image classifiers, for the studies of images."""
