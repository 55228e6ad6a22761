"""Who works when, on which device; knows no web framework."""
