"""What this machine can serve, before it does: `hbridge doctor`."""
