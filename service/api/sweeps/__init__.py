"""Many jobs from one request."""
