"""PostgreSQL and TimescaleDB: repositories, named SQL and migrations."""
