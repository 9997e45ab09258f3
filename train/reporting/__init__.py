"""The report, its plots and the model card."""
