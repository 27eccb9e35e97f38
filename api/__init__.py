"""The API process: it owns HTTP, PostgreSQL and the queue, and follows the journals of running commands."""
