#!/usr/bin/env bash
# Builds the Debian package of the node: scripts/debian.sh OUT   (docs/guides/debian.md)
# It needs python3-venv and dpkg-deb, and no root. The package fits the release on which it is built.
# PYTHON=... chooses the interpreter.
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/debian.sh OUT" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
venv=$tree/usr/lib/dicomnode
umask 022
export PIP_DISABLE_PIP_VERSION_CHECK=1

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' dicomnode/__init__.py)
architecture=$(dpkg --print-architecture)
# Compiled packages fit one minor version of Python only.
minor=$("$python" -c 'import sys; print(sys.version_info.minor)')

mkdir -p "$tree"
"$python" -m venv "$venv"
for lock in requirements.lock requirements-regions.lock requirements-postgres.lock; do
    "$venv/bin/python" -m pip install --quiet --no-compile --no-deps --requirement "$lock"
done
"$venv/bin/python" -m pip install --quiet --no-compile --no-deps .
"$venv/bin/python" -m pip uninstall --quiet --yes setuptools pip
# What tests the libraries is not needed to run, and where it was built is nobody's business.
find "$venv" -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -r {} +
find "$venv" -path '*.dist-info/direct_url.json' -delete
rm -f "$venv"/bin/[Aa]ctivate*
grep -rlZI --fixed-strings "$tree" "$venv/bin" "$venv/pyvenv.cfg" | xargs --null sed --in-place "s|$tree||g"
# Under systemd the node cannot write next to its modules. Some packages carry templates that are no Python.
"$python" -m compileall -q -s "$tree" -p / "$venv" >/dev/null || true

install -d "$tree/usr/bin" "$tree/DEBIAN"
ln -s ../lib/dicomnode/bin/dicomnode "$tree/usr/bin/dicomnode"
install -D -m 644 config/dicomnode.toml "$tree/etc/dicomnode/dicomnode.toml"
for unit in systemd/*.service; do
    install -D -m 644 "$unit" "$tree/usr/lib/systemd/system/$(basename "$unit")"
done
documents=$tree/usr/share/doc/dicomnode
sed --in-place "s|/opt/dicomnode/.venv/bin/|/usr/bin/|; s|/opt/dicomnode/README.md|${documents#"$tree"}/README.md|" \
    "$tree"/usr/lib/systemd/system/*.service
install -D -m 644 systemd/privileged-port.conf "$documents/examples/privileged-port.conf"
install -m 644 README.md SECURITY.md "$documents"
gzip --best --no-name --stdout CHANGELOG.md >"$documents/changelog.gz"
# The product's own licence, and those of the packages that it brings.
cat LICENSE docs/licences.md >"$documents/copyright"
cp --recursive --no-preserve=mode docs "$documents/docs"

install -m 755 config/debian/postinst config/debian/prerm config/debian/postrm "$tree/DEBIAN"
install -m 644 config/debian/conffiles "$tree/DEBIAN"
kilobytes=$(du --summarize --block-size=1024 "$tree" | cut -f1)
sed "s|@VERSION@|$version|; s|@ARCHITECTURE@|$architecture|; s|@INSTALLED_SIZE@|$kilobytes|
    s|@PYTHON@|python3 (>= 3.$minor), python3 (<< 3.$((minor + 1)))|" config/debian/control >"$tree/DEBIAN/control"
dpkg-deb --root-owner-group -Zzstd --build "$tree" "$out/dicomnode_${version}_$architecture.deb"
