# Two stages: the first has pip, the second only what pip installed. Images are named by digest, so
# that the same commit makes the same image; Dependabot proposes newer ones.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
COPY requirements.txt /
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir \
        --require-hashes --only-binary :all: -r /requirements.txt \
 && /opt/venv/bin/pip uninstall --quiet --yes pip

FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    DATA_DIR=/app/data
# Debian has a user "proxy" of its own.
RUN useradd --uid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin app
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY gunicorn.conf.py manage.py ./
COPY proxy proxy
# Compiled now: the code belongs to root, and the process may write to data/ alone.
RUN python -m compileall -q proxy \
 && install --directory --owner=app --group=app --mode=700 data
# As a number: Kubernetes can tell that this is not root.
USER 10001
VOLUME /app/data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "manage.py", "health"]
CMD ["gunicorn", "-c", "gunicorn.conf.py"]
