# syntax=docker/dockerfile:1
# Three images from one wheel: `api` serves, migrates and reads batches and has no PyTorch; `worker` trains, on
# GPUs or without (PyPI's PyTorch brings CUDA along); `worker-cpu` trains without one and is some gigabytes lighter.
#   docker build --target api .        docker build --target worker .        docker build --target worker-cpu .
# In none of them is a shell needed: every command and health check is a program with its words.

FROM python:3.12-slim-bookworm AS python
ENV PATH=/opt/numeral/bin:$PATH \
    PYTHONUNBUFFERED=1

FROM python AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/opt/numeral
WORKDIR /build
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    python -m pip install --disable-pip-version-check --root-user-action=ignore --constraint constraints.txt uv \
    && uv venv /opt/numeral

FROM build AS wheel
COPY pyproject.toml constraints.txt README.md ./
COPY service service
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --wheel --build-constraints constraints.txt --out-dir /wheel

# Dependencies come before the wheel: a change of our code installs none of them again. Last, a list of all that is in
# the image, for whoever looks for what is vulnerable.
FROM build AS api-build
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uv pip install --requirements pyproject.toml --extra otel --constraints constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    uv pip install --no-deps /wheel/*.whl
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uvx --constraints constraints.txt --from cyclonedx-bom cyclonedx-py environment --output-reproducible \
        --output-file /opt/numeral/sbom.cdx.json /opt/numeral

FROM build AS worker-build
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uv pip install --requirements pyproject.toml --extra train --extra otel --constraints constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    uv pip install --no-deps /wheel/*.whl
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uvx --constraints constraints.txt --from cyclonedx-bom cyclonedx-py environment --output-reproducible \
        --output-file /opt/numeral/sbom.cdx.json /opt/numeral

FROM build AS worker-cpu-build
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uv pip install --requirements pyproject.toml --extra train --extra otel --constraints constraints.txt --torch-backend cpu
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    uv pip install --no-deps /wheel/*.whl
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uvx --constraints constraints.txt --from cyclonedx-bom cyclonedx-py environment --output-reproducible \
        --output-file /opt/numeral/sbom.cdx.json /opt/numeral

FROM python AS runtime
RUN groupadd --gid 10001 numeral \
    && useradd --no-log-init --uid 10001 --gid 10001 --home-dir /var/lib/numeral --no-create-home \
       --shell /usr/sbin/nologin numeral \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/numeral
LABEL org.opencontainers.image.title="numeral" \
      org.opencontainers.image.description="A REST service that trains multi-layer perceptrons and reads handwritten digits with them." \
      org.opencontainers.image.version="0.1.0" \
      numeral.sbom="/opt/numeral/sbom.cdx.json"
# The home lies on a volume; a fresh named volume takes over this folder's owner. All else may be read-only but /tmp.
ENV NUMERAL_HOME=/var/lib/numeral \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/numeral
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["numeral"]

# Healthy while a training process of this container says to the database that it lives.
FROM runtime AS trains
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s --retries=3 CMD ["numeral", "health"]
CMD ["worker"]

FROM trains AS worker
COPY --from=worker-build /opt/numeral /opt/numeral

FROM trains AS worker-cpu
COPY --from=worker-cpu-build /opt/numeral /opt/numeral

FROM runtime AS api
COPY --from=api-build /opt/numeral /opt/numeral
# A container is reached from outside itself; who may reach it is decided where its port is published.
ENV NUMERAL_HOST=0.0.0.0
EXPOSE 8000
# Healthy when it can serve: database, schema and broker answer. Asked often, and so by little more than a socket.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-c", "\
import http.client, os; \
api = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('NUMERAL_PORT') or 8000), timeout=4); \
api.request('GET', '/readyz'); \
raise SystemExit(api.getresponse().status != 200)"]
CMD ["serve"]
