# shellcheck shell=bash
# Sourced by the scripts that use the huggingface_hub client.

need_hf() {
    HF_PYTHON=$CACHE/venv/bin/python
    [ -x "$CACHE/venv/bin/hf" ] || skip "no huggingface_hub in $CACHE/venv (tests/run makes it)"
    # Only the simulator may be asked: no telemetry, no look for updates, and no
    # Xet, which is another protocol.
    export HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_UPDATE_CHECK=1 \
        HF_HUB_DISABLE_PROGRESS_BARS=1 DO_NOT_TRACK=1
}

# hf_download NAME ID [ARGUMENT...]: into WORK/NAME.
hf_download() {
    local to=$WORK/$1
    shift
    HF_ENDPOINT=$HUB_URL "$CACHE/venv/bin/hf" download "$@" --local-dir "$to" >/dev/null || return
    # The client's own bookkeeping.
    rm -rf "$to/.cache"
}
