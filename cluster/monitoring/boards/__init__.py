"""Contents of the dashboards, one module for each."""
