# The trainer's image: a venv of `.[trainer]`, torch and CUDA included, some 6 GB; runs `trainer serve`, or any other verb:
#
#     docker build -f deploy/trainer.Dockerfile --build-arg BASE_IMAGE=NAME -t trapline-trainer:0.1.0 .
#
# BASE_IMAGE  as for the server's image.
# EXTRAS      trainer. Add tracing for --trace-endpoint.
# secret pip.conf   where packages come from: name an index of CPU builds there for an image without CUDA.
ARG BASE_IMAGE=base.invalid/debian-python:12

FROM ${BASE_IMAGE} AS builder
ARG EXTRAS=trainer
WORKDIR /build
COPY . .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /opt/trapline \
    && PIP_CONSTRAINT=constraints.txt /opt/trapline/bin/pip install --no-cache-dir ".[${EXTRAS}]" \
    && /opt/trapline/bin/pip uninstall --yes pip setuptools \
    && install -m 755 deploy/health.py /opt/trapline/bin/trapline-health

FROM ${BASE_IMAGE}
COPY --from=builder /opt/trapline /opt/trapline
# Volumes that are made for these folders get their owner.
RUN install -d -o 10001 -g 10001 /models /jobs /cache /photos
# HOME and USER: torch and Matplotlib ask for the user's folder and name, and 10001 has none.
ENV PATH=/opt/trapline/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/cache \
    USER=trapline \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TRAINER_DATA_ROOT=/photos \
    TRAINER_RUNS_ROOT=/jobs \
    TRAINER_MODELS=/models \
    TRAINER_CACHE_DIR=/cache \
    TRAINER_LISTEN=0.0.0.0:50052 \
    TRAINER_HEALTH=0.0.0.0:50055 \
    TRAINER_METRICS=0.0.0.0:9101
WORKDIR /tmp
EXPOSE 50052 50055 9101
USER 10001:10001
STOPSIGNAL SIGTERM
# For engines that look at it; Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["trapline-health", "127.0.0.1:50055"]
ENTRYPOINT ["trainer"]
CMD ["serve"]
