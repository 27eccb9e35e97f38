"""The routes: HTTP in, HTTP out, nothing decided here that is not about HTTP."""
