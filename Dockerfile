# Both programs as a container, the replay unless another entry point is named; see docker-compose.yml. The compilers stay in the first stage: gcc for
# our own modules, g++ for faster-fifo, which has no wheel for arm64.
FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/ingestor
WORKDIR /src
COPY pyproject.toml setup.* constraints.txt README.md ./
COPY ingestor ingestor
RUN /opt/ingestor/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.13-slim
# A volume that is mounted over a folder for the first time takes its owner from it.
RUN useradd --system --create-home --uid 10001 ingestor \
    && install -d -o ingestor /var/lib/ingestor
COPY --from=build /opt/ingestor /opt/ingestor
ENV PATH=/opt/ingestor/bin:$PATH PYTHONUNBUFFERED=1
USER ingestor
WORKDIR /home/ingestor
ENTRYPOINT ["python", "-m", "ingestor.replay_publisher"]
