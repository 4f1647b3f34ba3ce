"""Models that look at pictures and captions: weights, preparation, passes."""
