"""The short way of a prediction, below FastAPI."""
