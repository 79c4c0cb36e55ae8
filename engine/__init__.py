"""What the scripts do, stage by stage: training, testing, enhancing, exporting, and what these share."""
