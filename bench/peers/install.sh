#!/bin/sh
# Installs the peers that `npm run bench -- peers` compares with, outside the project: $HEDDLE_PEERS, else ~/.cache/heddle-peers.
# Its torch is also the one whose gloo the collective cases stand beside.
# Each part stands alone: what cannot be installed is named, and the bench reports it as missing.
set -u
peers="${HEDDLE_PEERS:-$HOME/.cache/heddle-peers}"
failed=0
mkdir -p "$peers" || exit 1

install_transformers() {
  python3 -m venv "$peers/python" &&
    # The CPU build of torch where its index is reachable: the default one brings gigabytes of CUDA.
    { "$peers/python/bin/pip" install "torch==2.13.0" --index-url https://download.pytorch.org/whl/cpu --retries 1 ||
      "$peers/python/bin/pip" install "torch==2.13.0"; } &&
    "$peers/python/bin/pip" install "transformers==5.23.0" "safetensors==0.8.0" "numpy==2.4.6" "gguf==0.19.0" "accelerate==1.15.0" "onnx==1.23.2"
}

install_llama_cpp() {
  mkdir -p "$peers/node" && cd "$peers/node" && { [ -f package.json ] || npm init -y >/dev/null; } &&
    npm install --ignore-scripts --omit=optional "node-llama-cpp@$llama_cpp_version" "@node-llama-cpp/linux-x64@$llama_cpp_version"
}

# Without install scripts, which would fetch CUDA: the CPU build is in the package. The checkpoint becomes ONNX by the Python packages above.
install_transformers_js() {
  mkdir -p "$peers/transformers-js" && cd "$peers/transformers-js" && { [ -f package.json ] || npm init -y >/dev/null; } &&
    npm install --ignore-scripts "@huggingface/transformers@4.3.1"
}

llama_cpp_version=3.22.1
(install_transformers) || { echo "install.sh: transformers was not installed" >&2; failed=1; }
(install_llama_cpp) || { echo "install.sh: node-llama-cpp was not installed" >&2; failed=1; }
(install_transformers_js) || { echo "install.sh: transformers.js was not installed" >&2; failed=1; }
[ "$failed" = 0 ] && echo "peers installed in $peers"
exit "$failed"
