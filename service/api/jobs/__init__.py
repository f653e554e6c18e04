"""Training jobs over HTTP: what is asked, what became of it, and its pictures."""
