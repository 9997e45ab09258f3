"""The laboratory hydraulic rig: topology, measurements, importer and live feed."""
