"""The service: pictures and queries over HTTP, and the command line."""
