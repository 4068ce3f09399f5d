# To be sourced by bash scripts that start a real Synapse.

# Sets SYNAPSE_PYTHON to a Python that has Synapse; unless it names one already, one is set up in ~/.cache/chappe.
need_synapse() {
  local venv=${XDG_CACHE_HOME:-$HOME/.cache}/chappe/synapse
  export SYNAPSE_PYTHON=${SYNAPSE_PYTHON:-$venv/bin/python}
  [ ! -x "$SYNAPSE_PYTHON" ] || return 0
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet 'matrix-synapse[url-preview]==1.163.2' beautifulsoup4
}
