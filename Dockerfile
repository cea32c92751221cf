# Two images: `docker build --target producer .` (small, no torch) and `docker build --target worker .`
FROM python:3.12.12-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# a number, so that Kubernetes can tell that it is not root
RUN useradd --create-home --uid 10001 vqa
WORKDIR /src
COPY constraints.txt ./

FROM base AS producer
COPY pyproject.toml README.md LICENSE ./
COPY vqa vqa
COPY producer producer
COPY workers workers
# the build sees no git, and so no tags
ARG VERSION=0.0.0
RUN SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VQA_QUEUE=${VERSION} pip install --constraint constraints.txt '.[flower,gateway,metrics]'
USER 10001
WORKDIR /home/vqa
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s CMD ["python", "-m", "producer.monitor.health", "queue"]
ENTRYPOINT ["vqa"]

FROM base AS worker
# for Triton, which comes with torch: it compiles C when the continuous engine's kernels first run
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# the release, with Triton 3.6, that the kernels for Hopper ran with; constraints.txt has that of the tests, which have no GPU
ARG TORCH=2.11.0
RUN sed --in-place "s/^torch==.*/torch==${TORCH}/" constraints.txt
# gigabytes, CUDA included: a layer of its own, which a change of our code leaves as it is
RUN pip install --constraint constraints.txt torch transformers accelerate
COPY pyproject.toml README.md LICENSE ./
COPY vqa vqa
COPY producer producer
COPY workers workers
ARG VERSION=0.0.0
RUN SETUPTOOLS_SCM_PRETEND_VERSION_FOR_VQA_QUEUE=${VERSION} pip install --constraint constraints.txt '.[worker,metrics]'
# a new volume takes its owner from the folder that it covers
ENV HF_HOME=/models
RUN install --directory --owner=10001 /models
VOLUME /models
USER 10001
WORKDIR /home/vqa
# a first start downloads the model
HEALTHCHECK --interval=30s --timeout=10s --start-period=60m CMD ["python", "-m", "producer.monitor.health", "worker"]
# the supervisor gets SIGTERM itself and drains
ENTRYPOINT ["python", "-m", "workers"]
