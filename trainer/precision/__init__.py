"""A cheaper file of a checked model: `int8` and `fp16` make it, `gate` says whether it answers as that one does."""
