"""How people classify folders of photos: `classifier.Classifier` from Python, `trapline classify` from a shell."""
