"""WebDataset shards: the tars themselves, and the samples in them."""
