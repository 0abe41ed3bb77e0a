"""What happens to a sample: parameters, cuts, policies, mixing, normalisation."""
