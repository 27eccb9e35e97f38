"""Short programs that use Bashd; each runs as it stands where a service runs, and tests run them all."""
