"""What Trapline's programs agree on: messages, errors, the model file, what preprocessing means, the command line.

Import the modules directly, e.g. `from trapline.v1 import classify_pb2` or `from trapline import preprocessing`.
Nothing here imports `trainer`, `server` or `clients`. Only `preprocessing` needs Pillow and NumPy, and only `service`,
the shell of the programs that are services, Prometheus's client and gRPC's reflection.
"""
