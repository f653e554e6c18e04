"""From the body of a request to digits, and from digits to answers."""
