"""Used by every package: errors, settings and file locks."""
