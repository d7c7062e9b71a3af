"""The rooms of serve.py, overload.py and restarts.py: servers, the load generator, ceilings, pages."""
