"""Concepts: lists of entries, made, read, and matched with captions."""
