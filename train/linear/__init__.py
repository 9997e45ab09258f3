"""What is fitted in closed form: whitening of the skip's features, and the OOD detector."""
