"""From a prediction to a diagnosis: input quality, decoding, states and abstention."""
