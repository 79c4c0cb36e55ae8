"""Rows -> a test set and folds that share nothing, as files that prove it."""
