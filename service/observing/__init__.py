"""What operators see: logs, counts and spans, without secrets."""
