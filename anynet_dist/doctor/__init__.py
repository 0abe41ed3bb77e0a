"""What `anynet doctor` checks: this machine (machine.py), its environment (environment.py), the ranks
together (ranks.py)."""
