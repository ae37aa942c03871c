# One image for every process of the engine: `api` (the default), `worker`, `migrate`.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build

# Every file is checked against its hash here; what follows sees this folder only, so that the
# image gets the locked versions without the tools of developers.
COPY requirements.lock ./
RUN pip download --quiet --require-hashes --only-binary :all: --dest /wheels \
        --requirement requirements.lock \
    && pip install --quiet --no-index --find-links /wheels hatchling

COPY LICENSE README.md pyproject.toml worker.py ./
COPY api api
COPY cli cli
COPY engine engine
RUN pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m venv /opt/metagov \
    && /opt/metagov/bin/pip install --quiet --no-index --find-links /wheels metagov-engine

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home metagov
COPY --from=build /opt/metagov /opt/metagov
COPY deploy/worker_health.py /opt/metagov/worker_health.py
ENV PATH=/opt/metagov/bin:$PATH PYTHONUNBUFFERED=1
USER metagov
WORKDIR /home/metagov
EXPOSE 8000
ENTRYPOINT ["metagov"]
CMD ["api"]
