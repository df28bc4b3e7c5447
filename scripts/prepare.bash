# What the checks need beside the sources; read by scripts/test and scripts/soak.
# Each function does nothing where the thing is already there.

export PATH="$HOME/.cargo/bin:$PATH"
target=${CARGO_TARGET_DIR:-$PWD/target}
venv=$target/python
export TIDINGS_BIN=${TIDINGS_BIN:-$target/release/tidings}
export TIDINGS_PYTHON=$venv/bin/python

install_system_packages() {
  local missing=()
  have() { command -v "$1" >/dev/null || PATH=/usr/sbin:/sbin command -v "$1" >/dev/null; }
  have cc || missing+=(build-essential)
  have curl || missing+=(curl ca-certificates)
  have node || missing+=(nodejs)
  have npm || missing+=(npm)
  have ip || missing+=(iproute2)
  have valgrind || missing+=(valgrind)
  have nginx || missing+=(nginx-light)
  have haproxy || missing+=(haproxy)
  have redis-server || missing+=(redis-server)
  have openssl || missing+=(openssl)
  have chromium || missing+=(chromium)
  have firefox-esr || missing+=(firefox-esr)
  # Debian's own Python: others on the PATH may lack venv, or be older than the clients want.
  /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} = 0 ] && return
  echo "installing ${missing[*]}"
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"
}

install_rust_components() {
  cargo fmt --version && cargo clippy --version && return
  rustup component add rustfmt clippy
}

# Built without optimisation: it runs for a second, and would take many minutes to optimise.
install_cargo_deny() {
  cargo deny --version 2>/dev/null && return
  # A target directory of its own, or `cargo install` would fill the project's.
  CARGO_TARGET_DIR=$target/cargo-deny cargo install --quiet --locked --debug cargo-deny --version 0.20.2 \
    && rm -rf "$target/cargo-deny" && cargo deny --version
}

install_node_packages() {
  node -e 'if (+process.versions.node.split(".")[0] < 20) { console.error("Node 20 or newer is needed"); process.exit(1) }' \
    && npm --prefix tests/e2e ci --no-audit --no-fund
}

install_python_packages() {
  [ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv "$venv" || return
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/python/requirements.txt
}

run_real_clients() {
  # A test that hangs is a failure too.
  (cd tests/e2e && timeout -k 10 "${TIDINGS_E2E_SECONDS:-1200}" npm test --silent)
}

# Other people's Rust clients are a workspace of their own, built into the same place.
check_rust_clients() {
  local manifest=tests/rust/Cargo.toml
  # Tests run in the folder of their package.
  export CARGO_TARGET_DIR=$target TIDINGS_BIN=$(realpath "$TIDINGS_BIN")
  cargo fmt --manifest-path "$manifest" --check \
    && cargo deny --manifest-path "$manifest" --config deny.toml check bans licenses sources \
    && cargo clippy --locked --manifest-path "$manifest" --all-targets --release -- -D warnings \
    && cargo test --locked --manifest-path "$manifest" --release
}

# The servers that bench/compare and bench/peers/check measure ours against.
install_peers() {
  local missing=()
  have() { command -v "$1" >/dev/null || PATH=/usr/sbin:/sbin command -v "$1" >/dev/null; }
  have node || missing+=(nodejs)
  have npm || missing+=(npm)
  have nginx || missing+=(nginx-light)
  [ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || missing+=(libnginx-mod-nchan)
  have pushpin || missing+=(pushpin)
  if [ ${#missing[@]} != 0 ]; then
    echo "installing ${missing[*]}"
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"
  fi
  # Read again only where what is wanted differs from what is there.
  [ bench/peers/node_modules/.package-lock.json -nt bench/peers/package-lock.json ] \
    || npm --prefix bench/peers ci --no-audit --no-fund
}
