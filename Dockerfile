# Every actor, and the NATS server, in one image: `sollol` is the entry point, `nats-server` is on the path.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY sollol_bus sollol_bus
COPY agents agents
COPY schemas schemas
RUN python -m venv /opt/sollol && /opt/sollol/bin/pip install --no-cache-dir '.[dashboard,otel,top]'

FROM python:3.12-slim
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
