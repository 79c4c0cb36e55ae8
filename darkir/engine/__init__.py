"""Training, evaluation, checkpoints and reports: what the scripts join. Import the submodule that you need."""
