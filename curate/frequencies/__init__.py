"""How often concepts and classes occur in a finished run: `curate concepts`."""
