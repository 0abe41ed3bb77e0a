"""Names of files that several modules write or look for."""

MODEL, AVERAGE = "model.safetensors", "ema.safetensors"
"""The weights of a network, and of its moving average."""
