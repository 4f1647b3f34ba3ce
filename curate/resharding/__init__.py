"""A subset out of shards: rewritten, or picked while loading; faces blurred on the way."""
