"""What sets two runs, or two subsets, apart: `curate diff`."""
