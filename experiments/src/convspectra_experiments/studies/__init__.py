"""Which runs an experiment has, who trains them, and what came out."""
