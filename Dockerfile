# Every actor, and the NATS server, in one image: `sollol` is the entry point, `nats-server` is on the path.
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./
RUN python -m venv /opt/sollol && /opt/sollol/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY sollol_bus sollol_bus
COPY agents agents
COPY schemas schemas
RUN /opt/sollol/bin/pip install --no-cache-dir --no-index --no-deps --no-build-isolation . && /opt/sollol/bin/pip check

FROM python:3.12.12-slim-bookworm
COPY --from=build /opt/sollol /opt/sollol
COPY deploy /etc/sollol
ENV PATH=/opt/sollol/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_STATE_HOME=/data
RUN useradd --system --uid 10001 --create-home sollol && install -d -o sollol -g sollol /data
USER sollol
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["sollol"]
CMD ["up"]
