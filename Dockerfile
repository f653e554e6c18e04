# syntax=docker/dockerfile:1
# Two images from one wheel: `api` serves and migrates and has no PyTorch, `worker` trains and has it
# (from PyPI, which on Linux brings CUDA along, so the same image trains on a GPU or without one).
#   docker build --target api .        docker build --target worker .

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

# Dependencies come before the wheel: a change of our code installs none of them again.
FROM build AS api-build
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uv pip install --requirements pyproject.toml --constraints constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    uv pip install --no-deps /wheel/*.whl

FROM build AS worker-build
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=constraints.txt \
    uv pip install --requirements pyproject.toml --extra train --constraints constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    uv pip install --no-deps /wheel/*.whl

FROM python AS runtime
RUN groupadd --gid 10001 numeral \
    && useradd --no-log-init --uid 10001 --gid 10001 --home-dir /var/lib/numeral --no-create-home \
       --shell /usr/sbin/nologin numeral \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/numeral
LABEL org.opencontainers.image.title="numeral" \
      org.opencontainers.image.description="A REST service that trains multi-layer perceptrons and reads handwritten digits with them." \
      org.opencontainers.image.version="0.1.0"
# The home lies on a volume; a fresh named volume takes over this folder's owner.
ENV NUMERAL_HOME=/var/lib/numeral
WORKDIR /var/lib/numeral
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["numeral"]

FROM runtime AS worker
COPY --from=worker-build /opt/numeral /opt/numeral
# Healthy while a training process of this container says to the database that it lives.
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=3 CMD ["python", "-I", "-c", "\
import socket; \
from service import settings; \
from service.store import database, workers; \
mine = socket.gethostname() + ':'; \
alive = workers.alive(database.Database(settings.load().database)); \
raise SystemExit(not any(worker.name.startswith(mine) for worker in alive))"]
CMD ["worker"]

FROM runtime AS api
COPY --from=api-build /opt/numeral /opt/numeral
# A container is reached from outside itself; who may reach it is decided where its port is published.
ENV NUMERAL_HOST=0.0.0.0
EXPOSE 8000
# Healthy when it can serve: database, schema and broker answer.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-I", "-c", "\
import http.client, os; \
api = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('NUMERAL_PORT') or 8000), timeout=4); \
api.request('GET', '/readyz'); \
raise SystemExit(api.getresponse().status != 200)"]
CMD ["serve"]
