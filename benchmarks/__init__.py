"""Speed on record: every figure as a ratio to a baseline of the same run, or with its floor beside it."""
