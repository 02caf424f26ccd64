"""OHIF as a radiologist's viewer: its prebuilt files served from this machine, in front of an archive's DICOMweb, in headless Chromium."""

from __future__ import annotations

import http.client
import mimetypes
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

_SETTINGS = """
window.config = {
  routerBasename: '/', extensions: [], modes: [], customizationService: {}, showStudyList: true, maxNumberOfWebWorkers: 1,
  showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false, showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true, groupEnabledModesFirst: true, showErrorDetails: 'always',
  investigationalUseDialog: { option: 'never' },
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 25 },
  defaultDataSourceName: 'ohif',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'ohif',
    configuration: {
      friendlyName: 'archive', name: 'archive', wadoUriRoot: '/dicom-web', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      supportsFuzzyMatching: false, supportsWildcard: true, omitQuotationForMultipartRequest: true,
      bulkDataURI: { enabled: true },
    },
  }],
};
"""


@contextmanager
def serve_viewer(dist: Path, archive_port: int) -> Iterator[str]:
    """Serve OHIF's files, any unknown path as its index page, and pass `/dicom-web` on to the archive; give the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith("/dicom-web"):
                self._pass_on()
                return
            if path == "/app-config.js":
                self._answer(200, "text/javascript", _SETTINGS.encode())
                return
            file = dist / path.lstrip("/")
            if not file.is_file():
                file = dist / "index.html"
            self._answer(
                200, mimetypes.guess_type(file.name)[0] or "application/octet-stream", file.read_bytes()
            )

        do_POST = do_GET

        def _pass_on(self) -> None:
            archive = http.client.HTTPConnection("127.0.0.1", archive_port, timeout=60)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            archive.request(
                self.command,
                self.path,
                body,
                {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]},
            )
            answer = archive.getresponse()
            self._answer(
                answer.status, answer.getheader("Content-Type") or "application/octet-stream", answer.read()
            )
            archive.close()

        def _answer(self, status: int, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def require_parts(parts: Mapping[str, object]) -> None:
    """Skip where one of the named parts is not there; fail in CI, which must have all."""
    missing = [name for name, part in parts.items() if not part]
    if not missing:
        return
    reason = f"not here: {', '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must have it", pytrace=False)
    pytest.skip(reason)
