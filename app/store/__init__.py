"""Equipment, readings, labels, diagnoses and keys in PostgreSQL, read and written through asyncpg alone."""
