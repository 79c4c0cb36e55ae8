"""One differentiable term a file, and the weighted objective. Import the submodule that you need."""
