"""NASA's C-MAPSS turbofan engines: topology, files and importer."""
