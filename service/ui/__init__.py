"""The page: templates and static files that show the public API to people. Everything that they do goes through
`/v1`, and nothing is fetched from elsewhere."""
