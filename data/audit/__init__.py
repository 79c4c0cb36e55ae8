"""Pairs -> those that look wrong, with the reason: measure, judge, page."""
