"""The command line: every word that asks a service. Each word imports what it needs when it is its turn."""
