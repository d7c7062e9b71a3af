"""Serves the classifiers that `trainer` exports, over gRPC; start at `cli`, or at `app.build` from Python."""
