"""What enters and leaves the service: pydantic models, frozen and strict, with no I/O."""
