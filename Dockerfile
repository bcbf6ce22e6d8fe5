# The service with the checkpoints of this repository.
#
#   docker build .                            PyTorch for the CPU
#   docker build --build-arg TORCH=cuda .     PyTorch with CUDA
#   docker build --build-arg EXTRA=ray .      and Ray, for deploy/ray

FROM python:3.11-slim-bookworm AS build
ARG TORCH=cpu
ARG EXTRA=serve
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/src/requirements.lock
WORKDIR /src
RUN python -m venv /opt/venv
COPY requirements.lock ./
RUN case "$TORCH" in \
    cpu) set -- --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu ;; \
    cuda) set -- ;; \
    *) echo "TORCH must be cpu or cuda, not $TORCH" >&2; exit 1 ;; \
    esac; \
    /opt/venv/bin/pip install --no-deps "$@" torch
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY service service
RUN /opt/venv/bin/pip install ".[backbone,grpc,postgres,redis,$EXTRA]" && rm /opt/venv/bin/hyperdraw-train # which needs training/

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
COPY checkpoints /checkpoints
RUN install -d -m 700 -o 10001 -g 10001 /state
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HYPERDRAW_CHECKPOINTS=/checkpoints \
    HYPERDRAW_HOST=0.0.0.0 \
    HYPERDRAW_PORT=8000
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"HYPERDRAW_PORT\"]}/readyz', timeout=4)"]
CMD ["hyperdraw-serve"]
