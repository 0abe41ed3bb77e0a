"""Loaders of batches: FFCV's library, torch's workers, or the device's memory."""
