"""Concepts: lists of entries, matched against captions and counted."""
