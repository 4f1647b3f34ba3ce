"""What a run came to, for people and programs: report.json, and the page made from it."""
