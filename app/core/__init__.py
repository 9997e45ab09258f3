"""What every package may use: errors, settings, command-line arguments and file locks."""
