#!/usr/bin/env bash
# Write the licences of what images install, as a page; fails where one is not of the kinds below.
# Of these only LGPL-3.0 (psycopg) and MPL-2.0 (certifi, tqdm) ask for something: their own sources, on request.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck disable=SC2046 # one word for each package
table=$(pip-licenses --from=mixed --order=name --no-version --format=markdown --partial-match \
    --allow-only="MIT;BSD;Apache;Python Software Foundation;PSF;ISC;MPL;Mozilla;LGPL-3.0-only" \
    --packages $(sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' docker/requirements.txt) torch)
cat <<END
# Licences

hbridge is under Apache-2.0. An image also holds these packages, and Debian's, whose licences are in
\`/usr/share/doc\`; the target \`cuda\` adds Triton (MIT), xformers (BSD) and NVIDIA's libraries, under NVIDIA's own
licences. Versions and hashes are in \`docker/requirements*.txt\`, and in the list of parts (CycloneDX) of every image,
\`/opt/hbridge/sbom.cdx.json\`. No weights but those of hbridge-tiny are included.

$table

(\`make licences\` writes this page.)
END
