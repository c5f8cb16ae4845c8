"""Over-optimization of a reward: what a reward that is optimized and one that audits it become with the divergence."""
