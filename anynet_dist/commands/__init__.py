"""The commands of `anynet`, one module each."""
