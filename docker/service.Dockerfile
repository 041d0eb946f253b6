# An image that serves a run or an exported file. Build it from the folder of the repository:
#
#   docker build -f docker/service.Dockerfile -t sfumato-service .                            # CPU
#   docker build -f docker/service.Dockerfile --build-arg TORCH=cu128 -t sfumato-service .    # CUDA
#   docker run -p 8000:8000 -v $PWD/runs/three:/model:ro sfumato-service /model/model.onnx
FROM python:3.11-slim

# cpu, or a version of CUDA such as cu128, for which PyTorch has an index of packages.
ARG TORCH=cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --index-url https://download.pytorch.org/whl/${TORCH} torch==2.13.0 \
    && grep -v '^torch==' constraints.txt > /tmp/pins.txt \
    && pip install -c /tmp/pins.txt '.[serve]' \
    && rm -rf /src /tmp/pins.txt

RUN useradd --create-home --uid 10001 sfumato
USER sfumato
WORKDIR /home/sfumato

EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["sfumato", "serve", "--host", "0.0.0.0", "--port", "8000"]
