# syntax=docker/dockerfile:1
# hf-oci as one static binary, and nothing else.
FROM rust:1-alpine AS build
RUN apk add --no-cache gcc musl-dev
ARG TARGETPLATFORM
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,id=target-$TARGETPLATFORM,sharing=locked,target=/src/target \
    cargo build --release --locked && cp target/release/hf-oci /hf-oci && mkdir /empty

FROM scratch
COPY --from=build /hf-oci /hf-oci
COPY --from=build --chown=65532:65532 /empty /data
USER 65532:65532
VOLUME /data
EXPOSE 5000
ENTRYPOINT ["/hf-oci"]
CMD ["serve", "--listen", "0.0.0.0:5000", "--data-dir", "/data"]
