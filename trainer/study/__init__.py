"""`trainer study`: the same training on growing parts of the photos, and what that says of more photos."""
