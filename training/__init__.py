"""The recipe of the shipped checkpoint: a world of shapes, its words, and the stages that learn it."""
