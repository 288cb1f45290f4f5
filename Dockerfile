# picker in an image: `docker build -t registry.example.com/picker:0.1.0 .`
#
# The entry point is `picker serve`, so that a manifest of another endpoint picker changes its image and keeps its args.
# Other commands are named whole: command: [picker, bbr], or `docker run --entrypoint picker IMAGE --help`.
# Nothing is written to: it runs with a read-only root, as any user.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libnghttp2-dev
RUN python -m venv /opt/build && /opt/build/bin/pip install -q --disable-pip-version-check 'pip==26.3'
COPY pyproject.toml ./
RUN /opt/build/bin/pip install -q --disable-pip-version-check --group build
COPY LICENSE LICENSE.libnghttp2 README.md MANIFEST.in setup.py ./
COPY proto proto
COPY tools tools
COPY _core _core
COPY picker picker
RUN PATH="/opt/build/bin:$PATH"; python -m build -q --wheel -o build/dist && auditwheel repair -w dist build/dist/*.whl
RUN python -m venv /opt/picker \
 && /opt/picker/bin/pip install -q --disable-pip-version-check --no-cache-dir --only-binary=:all: "$(ls dist/*.whl)[redis]" \
 && /opt/picker/bin/picker --version \
 && /opt/picker/bin/pip uninstall -q -y pip setuptools

FROM python:${PYTHON}
LABEL org.opencontainers.image.title=picker \
      org.opencontainers.image.description="Endpoint picker for LLM inference gateways" \
      org.opencontainers.image.licenses=Apache-2.0
ENV PATH=/opt/picker/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/picker /opt/picker
# By number: Kubernetes cannot tell of a name whether it is root's.
USER 65532:65532
EXPOSE 9002 9003 9090
ENTRYPOINT ["picker", "serve"]
