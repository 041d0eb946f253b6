# An image that trains, calibrates, evaluates and exports. Build it from the folder of the repository:
#
#   docker build -f docker/training.Dockerfile -t sfumato .                            # CPU
#   docker build -f docker/training.Dockerfile --build-arg TORCH=cu128 -t sfumato .    # CUDA
#   docker run --gpus all --shm-size 8g -v $PWD/data:/data:ro -v $PWD/runs:/runs sfumato \
#       fit --data /data/mine --out /runs/mine
FROM python:3.11-slim

# cpu, or a version of CUDA such as cu128, for which PyTorch has an index of packages.
ARG TORCH=cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --index-url https://download.pytorch.org/whl/${TORCH} torch==2.13.0 \
    && grep -v '^torch==' constraints.txt > /tmp/pins.txt \
    && pip install -c /tmp/pins.txt '.[train,report,export,video,geometry,data,instances]' \
    && rm -rf /src /tmp/pins.txt

RUN useradd --create-home --uid 10001 sfumato && mkdir /runs && chown sfumato /runs
USER sfumato
WORKDIR /home/sfumato
VOLUME /runs

# A training prints to its log; that the interpreter and the package load is what can be checked from outside.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s CMD ["sfumato", "--version"]
ENTRYPOINT ["sfumato"]
CMD ["--help"]
