"""What a run folder holds; nothing here knows of training."""
