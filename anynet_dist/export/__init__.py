"""Trained networks put to use: files of other formats, a Hub folder, predictions for images."""
