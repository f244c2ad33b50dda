# Any image with Python 3.10 or newer, its venv module and a shell.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
# hadolint ignore=DL3002
USER 0:0
WORKDIR /src
COPY pyproject.toml README.md LICENSE alembic_job.py ./
COPY runner runner
# The secrets are for a private index or a proxy's CA (docs/images.md); no layer keeps them.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv /opt/alembic-job \
    && /opt/alembic-job/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/alembic-job/bin/pip install --no-cache-dir --find-links /wheels "alembic-job[postgresql]" \
    && /opt/alembic-job/bin/python -m pip uninstall --yes setuptools pip

FROM ${BASE_IMAGE}
USER 0:0
COPY --from=build /wheels /usr/local/share/alembic-job
COPY --from=build /opt/alembic-job /opt/alembic-job
COPY --chmod=0755 entrypoint.sh /usr/local/bin/
# Any user id works; this one has a name, since some libraries ask who they are when they are imported.
# Slim bases ship the standard library without bytecode, and a read-only root never gets it: importing
# once while it can be written saves 0.4 s of CPU at every start.
RUN echo 'alembic-job:x:10001:10001::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'alembic-job:x:10001:' >> /etc/group \
    && PYTHONDONTWRITEBYTECODE='' /opt/alembic-job/bin/python -c \
       "import alembic.command, logging.config, psycopg, pydantic_settings, pymysql, sqlite3, tenacity"
# PIP_PYTHON: "pip install" in an image built on this one goes to where the program and env.py run.
ENV PATH=/opt/alembic-job/bin:$PATH \
    PIP_PYTHON=/opt/alembic-job/bin/python \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001:10001
# The base may be an app's image, with a stop signal and a health check of its own.
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]

# Last, since they change with every build.
ARG BASE_IMAGE
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="alembic-job" \
      org.opencontainers.image.description="Runs Alembic migrations inside a container" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
