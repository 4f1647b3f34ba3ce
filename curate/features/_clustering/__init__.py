"""What `clusters` is made of: a sample, k-means, hierarchies, assignment."""
