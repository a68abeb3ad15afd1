# Training: `docker build -f docker/training.Dockerfile -t structxlip-training .` from the root of the repository.
#
# The build arguments are those of service.Dockerfile, but for EXTRA: this image always holds the extra `train` and no index.
# The stages up to the torch layer are the same line by line, so that the two images share that layer in the builder's cache.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS requirements
ARG EXTRA=train
WORKDIR /lists
COPY docker/list_requirements.py pyproject.toml constraints*.txt ./
RUN touch constraints.txt \
 && python list_requirements.py pyproject.toml "${EXTRA}" > requirements.txt \
 && grep -E '^torch(vision)?\b' requirements.txt > torch.txt \
 && { grep -E '^torch(vision)?==' constraints.txt || true; } > torch-constraints.txt

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

FROM dependencies AS training
# The same uid as in the service, which reads from /models what is written there.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /models --shell /usr/sbin/nologin structxlip \
 && install --directory --owner=structxlip --group=structxlip /data /models
COPY --from=package /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
# A run's relative output folder lands in /models.
WORKDIR /models
# Ctrl-C is what the loop saves and stops at; `docker stop` sends the same.
STOPSIGNAL SIGINT
ENTRYPOINT ["structxlip", "train"]
CMD ["--help"]
