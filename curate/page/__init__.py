"""HTML pages, each made from one JSON file: templates in `sections/`, charts in `charts/`."""

Place = tuple[int, int]  # of a small picture: shard of the pool, row of the shard
