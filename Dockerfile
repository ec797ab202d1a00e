# prunetune on nodes with an NVIDIA GPU, as examples/cluster/kubernetes.yaml runs it:
#
#   docker build -t registry.example/prunetune:0.2.0 .
#   docker run --gpus all --shm-size 8g -v "$PWD:/work" registry.example/prunetune:0.2.0 run study.yaml device=0
#
# The image's torch is the one in constraints.txt, so that pip leaves it as it is. GPUs newer than Hopper need
# --build-arg BASE=pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime.
ARG BASE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
FROM ${BASE}

# Further extras of pyproject.toml: --build-arg EXTRAS=postgres,ray
ARG EXTRAS=postgres

# What the image has of Python belongs to nobody else, whoever manages it.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

# opencv's
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY spaces/ spaces/
COPY targets/ targets/
COPY pruning/ pruning/
COPY results/ results/
COPY search/ search/
RUN pip install -c constraints.txt ".[${EXTRAS}]" && rm -rf /src

# A number, as Kubernetes' runAsNonRoot wants it. 1000 is another user in some of these images.
RUN useradd --uid 10001 --create-home prunetune && install -d -o prunetune /work
USER 10001
WORKDIR /work
# What cannot load, shows here.
RUN prunetune --version && python -c "import cv2, torch, ultralytics"

ENTRYPOINT ["prunetune"]
