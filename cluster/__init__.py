"""How the service is placed on machines, and how many of them a fleet needs."""
