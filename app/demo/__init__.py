"""Demonstration machines: a folder each, whose `commands.py` adds its commands to `app.demo`."""
