"""Requests to stop, lost ranks, numbers that are not finite."""
