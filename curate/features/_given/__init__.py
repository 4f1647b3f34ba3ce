"""What users give as files: arrays, hashes, pictures, prototypes, tables, word lists."""
