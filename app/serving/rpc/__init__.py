"""Messages between deployments and the client that sends them."""
