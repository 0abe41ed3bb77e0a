"""Timed comparisons: loaders, start-up, storage profiles, scaling."""
