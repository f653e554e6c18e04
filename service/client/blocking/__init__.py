# Written by service.client.unasync from awaiting/__init__.py; change that.
"""The client for programs that block."""
