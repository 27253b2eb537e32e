FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
WORKDIR /build
RUN python -m venv /opt/signal
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/signal/bin/pip install --no-cache-dir --constraint constraints.txt setuptools \
    && /opt/signal/bin/pip install --no-cache-dir --constraint constraints.txt --no-build-isolation . \
    && /opt/signal/bin/pip uninstall --yes setuptools

FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
COPY --from=build /opt/signal /opt/signal
RUN useradd --uid 10001 --home-dir /var/lib/signal --create-home --shell /usr/sbin/nologin signal
USER signal
ENV PATH=/opt/signal/bin:$PATH \
    APP_ENV_HOST=* \
    APP_ENV_PORT=3000 \
    APP_ENV_DATA_DIR=/var/lib/signal
VOLUME /var/lib/signal
EXPOSE 3000
ENTRYPOINT ["nx-signal"]
CMD ["serve"]
