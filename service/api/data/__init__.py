"""Datasets that come in: uploads, and what was kept of predictions."""
