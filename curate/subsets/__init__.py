"""Subset files: built, opened as others make them, and compared."""
