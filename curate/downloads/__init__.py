"""URLs -> shards, through img2dataset, made safe."""
