"""Exploring the design space: spaces, populations of networks drawn from them, statistics and a report."""
