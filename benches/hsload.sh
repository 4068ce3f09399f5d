# To be sourced by bash scripts that put load on servers; $root is the repository and $cache a folder to build in.

# Builds hsload into $cache/hsload, from the folder that HSLOAD_SOURCE names.
need_hsload() {
  local source=${HSLOAD_SOURCE:-$root/../shared/load}
  [ -d "$source" ] || { echo "$source is missing. hsload is not part of this repository: name its folder with HSLOAD_SOURCE" >&2; exit 1; }
  cargo build --quiet --release --locked --manifest-path "$source/Cargo.toml" --target-dir "$cache/hsload"
}
