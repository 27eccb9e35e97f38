"""The tests: real bash, real processes, real PostgreSQL, over HTTP wherever a promise is made there."""
