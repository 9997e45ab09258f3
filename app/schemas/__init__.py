"""Public contracts: equipment, readings, diagnosis and releases as frozen pydantic models."""
