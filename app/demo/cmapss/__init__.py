"""NASA's C-MAPSS turbofan engines: files and importer."""
