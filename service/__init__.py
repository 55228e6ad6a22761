"""Serving: many requests at once, the wire, the operators. Imports the model, never the other way round."""
