"""What changes the weights: optimizers, schedules, losses, averages."""
