# The service: `docker build -f docker/service.Dockerfile -t structxlip-service .` from the root of the repository.
#
#   PYTHON_IMAGE      the base image; any image with Python >= 3.11, venv and pip will do
#   EXTRA             `cpu` (faiss-cpu) or `gpu` (faiss-gpu); the two wheels own the same files, so choose one
#   TORCH_INDEX_URL   where torch and torchvision come from; empty: the same index as all else, whose Linux wheels bring CUDA
#                     along (about 6 GB). PyTorch's own index of CPU wheels makes the image several times smaller
#   PIP_INDEX_URL     a mirror of the package index; empty: pip's default
#
# Works with the classic builder as well as with BuildKit: no cache mounts, no here-documents.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# What to install, read from pyproject.toml. Later stages copy the lists alone, so that they are built again when a
# requirement changes and not when some other line of the file does.
FROM ${PYTHON_IMAGE} AS requirements
ARG EXTRA=cpu
WORKDIR /lists
COPY docker/list_requirements.py pyproject.toml constraints*.txt ./
RUN touch constraints.txt \
 && python list_requirements.py pyproject.toml "${EXTRA}" > requirements.txt \
 && grep -E '^torch(vision)?\b' requirements.txt > torch.txt \
 && { grep -E '^torch(vision)?==' constraints.txt || true; } > torch-constraints.txt

# The libraries. The final image goes on from here, so that an update of our code ships a layer of our code alone; torch goes
# first, in a layer that docker/training.Dockerfile shares. The environment has no pip of its own: the base image's fills it.
FROM ${PYTHON_IMAGE} AS dependencies
ARG PIP_INDEX_URL
ARG TORCH_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /lists
RUN python -m venv --without-pip /opt/venv
COPY --from=requirements /lists/torch.txt /lists/torch-constraints.txt ./
RUN python -m pip --python /opt/venv/bin/python install ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} \
      --requirement torch.txt --constraint torch-constraints.txt
COPY --from=requirements /lists/requirements.txt /lists/constraints.txt ./
RUN python -m pip --python /opt/venv/bin/python install --requirement requirements.txt --constraint constraints.txt

# Our own four packages, in the same place of an otherwise empty environment.
FROM ${PYTHON_IMAGE} AS package
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml README.md LICENSE ./
COPY structxlip structxlip
COPY training training
COPY index index
COPY service service
RUN python -m pip --python /opt/venv/bin/python install --no-deps .

FROM dependencies AS service
# The uid is fixed so that the owner of a bind-mounted folder can be set to it. Both folders are made here because a new named
# volume takes the owner of the folder that it covers.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /models --shell /usr/sbin/nologin structxlip \
 && install --directory --owner=structxlip --group=structxlip /data /models
COPY --from=package /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    STRUCTXLIP_DATA=/data
USER 10001:10001
WORKDIR /data
EXPOSE 8000
# Ready, and not merely up: the model's worker is alive and the index is loaded. http.client takes no notice of a proxy
# in the environment, which urllib would send this request to.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
# In exec form, so that the service itself gets SIGTERM and finishes what it has accepted.
ENTRYPOINT ["structxlip"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
