"""Training as jobs: rows in SQLite, one child process a job, and what both tell."""
