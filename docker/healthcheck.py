"""Say by the exit code whether the server in this container takes jobs."""

import sys
from http.client import HTTPConnection, HTTPException
from os import environ  # noqa: TID251 - it runs beside the service, which reads its own

connection = HTTPConnection("127.0.0.1", int(environ.get("HBRIDGE_PORT") or 8000), timeout=3)
try:
    connection.request("GET", "/readyz")
    sys.exit(connection.getresponse().status != 200)
except (OSError, HTTPException) as error:
    sys.exit(str(error))
