"""The hydraulic test rig: topology, measurements, importer and live feed."""
