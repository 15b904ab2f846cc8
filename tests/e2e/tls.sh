#!/usr/bin/env bash
# A certificate of `hf-oci cert` is what skopeo and curl trust, over HTTP/1.1 and 2.
. "$(dirname "$0")/lib.sh"
need skopeo curl tar python3

"$HF_OCI" cert localhost 127.0.0.1 --out "$WORK/tls" >"$WORK/cert.out"
mkdir -p "$WORK/trust" "$WORK/empty"
cp "$WORK/tls/localhost.crt" "$WORK/trust/ca.crt"
start_all --tls-cert "$WORK/tls/localhost.crt" --tls-key "$WORK/tls/localhost.key"
image=docker://localhost:${PROXY##*:}/org/model:main

skopeo copy -q --src-cert-dir "$WORK/trust" "$image" "dir:$WORK/copied"
ok "skopeo copies with the certificate"
if skopeo inspect --cert-dir "$WORK/empty" "$image" >/dev/null 2>&1; then
    fail "skopeo takes a server that it was not told to trust"
fi
ok "skopeo refuses without it"
for version in 1.1 2; do
    got=$(curl -sS --cacert "$WORK/trust/ca.crt" "--http$version" -o /dev/null -w '%{http_code} %{http_version}' "https://$PROXY/v2/")
    same_text "200 $version" "$got" "curl over HTTP/$version"
done
