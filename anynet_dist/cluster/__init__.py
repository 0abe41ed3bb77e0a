"""SLURM: jobs handed in through the templates of slurm/, and what became of them."""
