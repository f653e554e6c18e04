"""What keeps processes and jobs going: supervision, the broker and its messages, leases, and what puts them right."""
