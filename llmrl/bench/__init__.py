"""The benchmark: what a step takes, as ratios that are measured side by side in one run."""
