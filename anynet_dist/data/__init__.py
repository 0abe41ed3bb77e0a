"""Data sets, sample order, and what loads them."""
