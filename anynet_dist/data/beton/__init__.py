"""FFCV's `.beton` files: format, writing, checking, adopting."""
