# The server's image: a venv of `.[server]` on a slim base, without pip and without torch. From the repository's top:
#
#     docker build -f deploy/server.Dockerfile --build-arg BASE_IMAGE=NAME -t trapline-server:0.1.0 .
#
# BASE_IMAGE  Debian 12 or newer with Python 3.11 or newer and its venv module, by digest: python:3.11-slim-bookworm, or
#             one of your own. The default is a name that no registry has, so that a forgotten one fails at once.
# EXTRAS      server: for CPUs. server,cuda: with CUDA 13 and cuDNN 9. Add tracing for --trace-endpoint.
# secret pip.conf   where packages come from, if not from pip's own index; it is in no layer.
ARG BASE_IMAGE=base.invalid/debian-python:12

FROM ${BASE_IMAGE} AS builder
ARG EXTRAS=server
WORKDIR /build
COPY . .
# ONNX Runtime's wheel has its CUDA part in any case: 270 MB that an image for CPUs has no use for.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m venv /opt/trapline \
    && PIP_CONSTRAINT=constraints.txt /opt/trapline/bin/pip install --no-cache-dir ".[${EXTRAS}]" \
    && /opt/trapline/bin/pip uninstall --yes pip setuptools \
    && case ",${EXTRAS}," in \
        *,cuda,*) ;; \
        *) find /opt/trapline -name 'libonnxruntime_providers_cuda.so' -delete ;; \
    esac \
    && install -m 755 deploy/health.py /opt/trapline/bin/trapline-health

FROM ${BASE_IMAGE}
COPY --from=builder /opt/trapline /opt/trapline
# A volume that is made for this folder gets its owner.
RUN install -d -o 10001 -g 10001 /models
# The address is every one of the container's: what reaches it is what publishes the port.
ENV PATH=/opt/trapline/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SERVER_MODELS=/models \
    SERVER_LISTEN=0.0.0.0:50051 \
    SERVER_HEALTH=0.0.0.0:50053 \
    SERVER_METRICS=0.0.0.0:9100
WORKDIR /tmp
EXPOSE 50051 50053 9100
USER 10001:10001
STOPSIGNAL SIGTERM
# For engines that look at it; Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["trapline-health", "127.0.0.1:50053"]
ENTRYPOINT ["server"]
CMD ["run"]
