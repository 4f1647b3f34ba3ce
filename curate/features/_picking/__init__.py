"""What `clip_cov` is made of: classes cut into cells, the greedy walk, its tasks."""
