"""The hydraulic rig: its topology, its measurements, their importer and the live feed."""
