"""The HTTP calls, one module for each group."""
