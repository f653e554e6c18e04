"""Who and what comes in: hosts and pages, keys and their scopes, rates, the limits of a body."""
