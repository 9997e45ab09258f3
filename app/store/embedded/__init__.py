"""The local PostgreSQL server that is used when no DSN is set."""
