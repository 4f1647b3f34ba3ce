"""Web-scale curation of image-text data: one YAML from URLs to a curated training set."""

__version__ = "0.1.0"
