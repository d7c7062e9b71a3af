"""Turns labelled folders of photos into a checked ONNX classifier; start at `cli`, or read `run`."""
