"""The client for programs that await. The blocking half beside it is written from this one by `service.client.unasync`."""
