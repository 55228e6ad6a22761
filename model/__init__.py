"""The mathematics: networks, flow, guidance, checkpoints, and one request in a straight line."""
