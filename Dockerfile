# Builds with the classic builder too. The database is expected beside it (docker-compose.yml); without one, Bashd runs
# the PostgreSQL of its own wheel below /var/lib/bashd.
FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /app
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY pyproject.toml uv.lock README.md ./
RUN uv sync --frozen --no-dev --no-install-project --python "$(command -v python3)"
COPY . .
RUN uv sync --frozen --no-dev --no-editable --python "$(command -v python3)"

FROM python:3.13-slim
# procps: operators look at process groups with ps. The uid is fixed, for files of secrets that are mounted belong to uids.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 bashd \
    && useradd --uid 10001 --gid bashd --create-home --home-dir /home/bashd --shell /usr/sbin/nologin bashd \
    && install -d -o bashd -g bashd -m 0700 /var/lib/bashd
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    BASHD_HOST=0.0.0.0 \
    BASHD_PLAIN_HTTP=true \
    BASHD_STATE_DIR=/var/lib/bashd
# As a number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /home/bashd
VOLUME /var/lib/bashd
EXPOSE 8080
STOPSIGNAL SIGTERM
# Ready, not merely alive: who is started after Bashd can use it. No engine ends a container for being unhealthy by itself.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-Ic", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.getenv(\"BASHD_PORT\", 8080)}/readyz', timeout=2)"]
# As PID 1 a signal that comes before its handler stands is lost. Blocked it waits until init takes it.
ENTRYPOINT ["env", "--block-signal=TERM,INT,HUP", "bashd"]
CMD ["serve"]
