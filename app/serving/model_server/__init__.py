"""The model deployment: one version's weights on one device."""
