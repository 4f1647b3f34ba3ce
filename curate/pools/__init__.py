"""What a run starts from: files of strangers as shards, blocks, columns and pictures."""
