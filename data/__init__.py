"""JSONL manifests, images, splits and loaders. Import the submodule that you need; this file stays free of torch."""
