"""The pipeline file: YAML -> objects, and every problem of it with its line."""
