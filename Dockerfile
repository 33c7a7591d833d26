# Kontiki in an image without a shell, as a user without rights. Settings by KONTIKI_* (docs/operations.md, In containers).
#   docker build -t kontiki .
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin kontiki && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/kontiki /usr/local/bin/kontiki
# A volume that is mounted here belongs to the user the process runs as.
COPY --from=build --chown=65532:65532 /data /var/lib/kontiki
USER 65532:65532
VOLUME ["/var/lib/kontiki"]
# The admin address approves recoveries: for Prometheus, open it to a network that you trust (KONTIKI_ADMIN_LISTEN=0.0.0.0:8080).
ENV KONTIKI_DATA_DIR=/var/lib/kontiki \
    KONTIKI_PEER_LISTEN=0.0.0.0:9093 \
    KONTIKI_ADMIN_LISTEN=127.0.0.1:8080
EXPOSE 9092 9093 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/kontiki", "ready", "--timeout", "3s", "--admin", "127.0.0.1:8080"]
ENTRYPOINT ["/usr/local/bin/kontiki"]
CMD ["start"]
