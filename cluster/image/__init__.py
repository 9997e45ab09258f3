"""Steps of `cluster/Dockerfile`: what to install, the project's metadata, the bill of materials."""
