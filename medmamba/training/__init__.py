"""From a plan to weights: one training loop for all tasks, and the folder of a run."""
