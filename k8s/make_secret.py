"""Write the Secret of a pool, with new keys: python k8s/make_secret.py ... | kubectl apply -f -.

Nothing of it is kept here. Applied again it replaces all keys, so keep what it wrote, or let a tool of the
cluster hold it (External Secrets, Sealed Secrets) under the same names.
"""

import secrets
import sys
from base64 import b64encode
from typing import Annotated

import typer
import yaml

from service.certificates import make_development_key


def write(
    *,
    database_url: Annotated[str, typer.Option(help="As postgresql://user:password@host/name.")],
    limits_storage_url: Annotated[
        str,
        typer.Option(help="redis://:password@host, so that servers count a tenant's requests together."),
    ] = "",
    hugging_face_token: Annotated[str, typer.Option(help="For models that ask who downloads them.")] = "",
    namespace: Annotated[str, typer.Option(help="Where the servers are.")] = "hbridge",
) -> None:
    """Write a Secret with new keys on standard output."""
    signing = make_development_key()
    files = {
        "bootstrap-key": f"hb-{secrets.token_hex(6)}-{secrets.token_urlsafe(32)}",
        "hbridge_database_url": database_url,
        "hbridge_limits_storage_url": limits_storage_url,
        "hbridge_link_key": secrets.token_urlsafe(32),
        "hbridge_webhook_secret": f"whsec_{b64encode(secrets.token_bytes(32)).decode()}",
        "hugging-face-token": hugging_face_token,
        "signing-key.pem": signing.key.decode(),
        "signing-certificate.pem": signing.certificates.decode(),
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "hbridge-secrets",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "hbridge"},
        },
        "type": "Opaque",
        "stringData": {name: content for name, content in files.items() if content},
    }
    sys.stdout.write(yaml.safe_dump(secret, sort_keys=False))


if __name__ == "__main__":
    typer.run(write)
