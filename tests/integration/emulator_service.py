"""The emulator alone, for its own tests."""
import contextlib
import http.client
import signal
import socket
import ssl

from harness import DEADLINE, SCOPE, World
from script_client import Script


class Service(World):
    """The emulator alone; the TPM is the module's."""

    def __init__(self, tpm, *options, polls=0):
        super().__init__(polls=polls, emulator=options)
        self.tpm = tpm
        self.environment["ASAN_OPTIONS"] += ":quarantine_size_mb=1"  # what is freed does not count as in use

    def __enter__(self):
        (self.dir / "emulator").mkdir()
        self.start_emulator()
        return self

    def __exit__(self, kind, value, traceback):
        status = self.stop()
        super().__exit__(kind, value, traceback)
        assert status == 0, status  # a leak, too, gives another one

    def stop(self):
        return self.emulator.kill(signal.SIGTERM)

    @property
    def ca(self):
        return self.dir / "emulator/ca.pem"

    def enrollment(self, registration_id="GW-1", **changes):
        return {"registrationId": registration_id, "attestation": {"type": "tpm", "tpm": {"endorsementKey": self.tpm.ek}},
                "capabilities": {"iotEdge": True}, **changes}

    def script(self, registration_id="GW-1", **habits):
        return Script(f"https://localhost:{self.port}", self.ca, self.tpm, SCOPE, registration_id, **habits)

    def connection(self, timeout=DEADLINE):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout,
                                           context=ssl.create_default_context(cafile=self.ca))

    def ask(self, method, path, body=None, **headers):
        """Without curl: status, headers, text."""
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read().decode()

    def raw(self):
        context = ssl.create_default_context(cafile=self.ca)
        return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), DEADLINE), server_hostname="localhost")
