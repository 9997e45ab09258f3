"""The linear classifier and the OOD detector, fitted in closed form."""
