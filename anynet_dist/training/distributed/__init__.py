"""Several ranks: engines, rendezvous, batches, agreement."""
