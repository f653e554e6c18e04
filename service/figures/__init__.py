"""What is told of results: the report of a job, two jobs side by side, the trials of a sweep by rank."""
