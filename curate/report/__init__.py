"""What a run came to, for people and programs: report.json, and what is in it."""
