"""Stand-in for aziot-identityd and aziot-tpmd. Not the real thing.

It uses device_info when that is valid, without asking DPS; signs its hub token with the key at 0x81000100, through the
TPM; writes prev_state once the hub took the token; registers by itself when it has no identity or the hub refuses it,
and then replaces the key in the TPM, as aziot-tpmd does.
"""
import asyncio
import base64
import http.client
import json
import re
import socket
import ssl
import time
import tomllib
import urllib.parse

from tpm2_pytss import (ESAPI, ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_SE, TPM2B_ENCRYPTED_SECRET, TPM2B_ID_OBJECT, TPM2B_PRIVATE,
                        TPM2B_PUBLIC, TPMA_OBJECT, TPMT_PUBLIC, TPMT_SYM_DEF, TPMT_SYM_DEF_OBJECT, TSS2_Exception)
from tpm2_pytss.utils import NoSuchIndex, create_ek_template

SERVICE = "aziot-identityd.service"
EK, SRK, HUB_KEY = 0x81010001, 0x81000001, 0x81000100
SRK_TEMPLATE = TPMT_PUBLIC.parse("rsa2048:aes128cfb", TPMA_OBJECT.parse(
    "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"))
API = "api-version=2021-06-01"


class IdentitydFailed(Exception):
    pass


def no_nv_index(index):
    raise NoSuchIndex(index)


class Tpmd:
    """aziot-tpmd: looks for the key at its handle only when it starts."""

    def __init__(self, world):
        self.world = world
        self.has_key = False
        self.owner_auth = ""

    def tpm(self):
        tpm = ESAPI(self.world.tcti)
        if self.owner_auth:
            tpm.tr_set_auth(ESYS_TR.OWNER, self.owner_auth)
        return tpm

    def configured_owner_auth(self):
        path = self.world.path("/etc/aziot/tpmd/config.d/00-super.toml")
        config = tomllib.loads(path.read_text()) if path.exists() else {}
        return config.get("hierarchy_authorization", {}).get("owner", "")

    async def start(self):
        self.owner_auth = self.configured_owner_auth()

        def look():
            with self.tpm() as tpm:
                self.provide_keys(tpm)
                return self.is_there(tpm, HUB_KEY)
        self.has_key = await asyncio.to_thread(look)

    async def stop(self):
        self.has_key = False

    def provide_keys(self, tpm):
        """The TPM may have been cleared. As the real one, makes the endorsement key and the storage root key again."""
        for handle, hierarchy, template in ((EK, ESYS_TR.ENDORSEMENT, create_ek_template("EK-RSA2048", no_nv_index)[1]),
                                            (SRK, ESYS_TR.OWNER, TPM2B_PUBLIC(SRK_TEMPLATE))):
            if not self.is_there(tpm, handle):
                key = tpm.create_primary(None, template, hierarchy)[0]
                tpm.evict_control(ESYS_TR.OWNER, key, handle)
                tpm.flush_context(key)

    @staticmethod
    def is_there(tpm, handle):
        _, capability = tpm.get_capability(TPM2_CAP.HANDLES, handle, 1)
        handles = capability.data.handles  # which lives as long as capability does
        return len(handles) > 0 and int(handles[0]) == handle

    def sign(self, data):
        if not self.has_key:
            raise IdentitydFailed("tpmd has no key")
        try:
            with self.tpm() as tpm:
                return bytes(tpm.hmac(tpm.tr_from_tpmpublic(HUB_KEY), data, TPM2_ALG.SHA256))
        except TSS2_Exception as error:
            raise IdentitydFailed(str(error)) from error

    def public_keys(self):
        with self.tpm() as tpm:
            keys = [tpm.read_public(tpm.tr_from_tpmpublic(handle))[0] for handle in (EK, SRK)]
            return [base64.b64encode(key.marshal()).decode() for key in keys]

    def import_key(self, blob):
        """Evicts the old key first, whatever comes of the new one: so does the real one."""
        parts = []
        for kind in (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET, TPM2B_PRIVATE, TPM2B_ENCRYPTED_SECRET, TPM2B_PUBLIC):
            part, used = kind.unmarshal(blob)
            blob = blob[used:]
            parts.append(part)
        credential, secret, duplicate, seed, public = parts
        with self.tpm() as tpm:
            if self.has_key:
                tpm.evict_control(ESYS_TR.OWNER, tpm.tr_from_tpmpublic(HUB_KEY), HUB_KEY)
            ek, srk = tpm.tr_from_tpmpublic(EK), tpm.tr_from_tpmpublic(SRK)
            session = tpm.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY,
                                             TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256)
            try:
                tpm.policy_secret(ESYS_TR.ENDORSEMENT, session, b"", b"", b"", 0)
                inner = tpm.activate_credential(srk, ek, credential, secret, session1=ESYS_TR.PASSWORD,
                                                session2=session)
            finally:
                tpm.flush_context(session)
            symmetric = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.AES)
            symmetric.keyBits.aes, symmetric.mode.aes = 128, TPM2_ALG.CFB
            private = tpm.import_(srk, bytes(inner), public, duplicate, seed, symmetric)
            key = tpm.load(srk, private, public)
            try:
                tpm.evict_control(ESYS_TR.OWNER, key, HUB_KEY)
            finally:
                tpm.flush_context(key)
            self.has_key = True


class Identityd:
    def __init__(self, world, manager):
        self.world = world
        self.manager = manager
        self.tpmd = Tpmd(world)
        self.server = None
        self.ready = asyncio.Event()
        self.identity = None
        self.task = None
        self.lock = asyncio.Lock()
        self.clients = set()

    # --- the socket unit ---

    async def listen(self):
        path = self.world.path("/run/aziot/identityd.sock")
        path.unlink(missing_ok=True)
        self.server = await asyncio.start_unix_server(self.on_client, str(path))

    async def unlisten(self):
        if self.server:
            self.server.close()
        self.server = None
        self.world.path("/run/aziot/identityd.sock").unlink(missing_ok=True)

    # --- the service ---

    async def start(self):
        self.ready.clear()
        self.identity = None
        config = self.world.path("/etc/aziot/identityd/config.d/00-super.toml")
        if not config.exists():
            raise IdentitydFailed("no configuration")
        self.config = tomllib.loads(config.read_text())["provisioning"]
        self.task = asyncio.get_running_loop().create_task(self.provision())

    async def stop(self):
        if self.task:
            self.task.cancel()
        self.task = None
        self.ready.clear()
        self.drop_clients()

    def drop_clients(self):
        """The end of the process, for who waits for an answer."""
        for client in self.clients:
            client.transport.abort()

    async def provision(self):
        try:
            async with self.lock:
                await self.manager.run("start", "aziot-tpmd.service")  # through its socket
                self.identity = self.read_device_info()
                if self.identity:
                    self.world.log("provisioned-with-backup", hub=self.identity[0], device=self.identity[1])
                else:
                    await self.register()
                await self.reconcile()
        except (IdentitydFailed, OSError, TSS2_Exception, KeyError) as error:
            self.world.log("identityd-error", error=str(error))
            self.drop_clients()
            self.manager.died(SERVICE, restart=0.5)  # "no valid device backup was found", also when there is one
            return
        self.world.log("identityd-ready")
        self.ready.set()

    def read_device_info(self):
        path = self.world.path("/var/lib/aziot/identityd/device_info")
        try:
            info = tomllib.loads(path.read_text())
            return info["hub_name"], info["device_id"]
        except FileNotFoundError:
            return None
        except (tomllib.TOMLDecodeError, KeyError, OSError):
            path.unlink(missing_ok=True)
            return None

    async def reconcile(self, may_register=True):
        """Asks the hub. One that can't be reached, or has an error of its own, leaves it with what it has; one that
        refuses makes it register, once. Refused again it fails, and so it does when DPS refuses."""
        status = await self.hub_status()
        while status == 429:
            await asyncio.sleep(1)  # the real one: a minute and more, five times
            status = await self.hub_status()
        if status == 200:
            hub, device = self.identity
            self.world.write("/var/lib/aziot/identityd/device_info",
                             f'hub_name = "{hub}"\nlocal_gateway_hostname = "{hub}"\ndevice_id = "{device}"\n')
            self.world.write("/var/lib/aziot/identityd/prev_state", "# its settings\n")
        elif not may_register:
            raise IdentitydFailed(f"Hub client error: {status}")
        elif status not in (0, 500):
            try:
                await self.register()
            except OSError as error:
                self.world.log("identityd-error", error=str(error))
                return
            await self.reconcile(may_register=False)

    async def hub_status(self):
        """0: it can't be reached."""
        try:
            status, error = await asyncio.to_thread(self.ask_hub, "GET", ""), None
        except IdentitydFailed as failed:  # tpmd could not sign
            status, error = 401, str(failed)
        except OSError as failed:
            status, error = 0, str(failed)
        self.world.log("hub", hub=self.identity[0], device=self.identity[1], status=status, error=error)
        return status

    # --- requests to the outside ---

    def connect(self, host):
        name, _, port = host.partition(":")
        context = ssl.create_default_context(cafile=self.world.hub_ca)
        connection = http.client.HTTPSConnection(name, int(port or 443), timeout=60, context=context)
        # any name below localhost is this machine, whatever the resolver says
        connection._create_connection = lambda address, *rest: socket.create_connection(
            ("127.0.0.1" if address[0].endswith("localhost") else address[0], address[1]), *rest)
        return connection

    def token(self, audience, expiry, sign):
        resource = audience.lower()
        signature = urllib.parse.quote(base64.b64encode(sign(f"{resource}\n{expiry}".encode())), safe="")
        return f"sr={resource}&sig={signature}&se={expiry}"

    def ask_hub(self, method, module):
        hub, device = self.identity
        expiry = int(self.world.now()) + self.world.token_sec
        token = self.token(f"{hub.partition(':')[0]}/devices/{device}", expiry, self.tpmd.sign)
        connection = self.connect(hub)
        try:
            path = f"/devices/{device}/modules" + (f"/{urllib.parse.quote(module)}" if module else "")
            connection.request(method, f"{path}?api-version=2017-11-08-preview",
                               headers={"Authorization": f"SharedAccessSignature {token}"})
            return connection.getresponse().status
        finally:
            connection.close()

    async def register(self):
        self.world.log("registers-itself")
        self.identity = await asyncio.to_thread(self.register_with_dps)
        self.world.log("registered-itself", hub=self.identity[0], device=self.identity[1])

    def register_with_dps(self):
        scope, rid = self.config["scope_id"], self.config["attestation"]["registration_id"]
        ek, srk = self.tpmd.public_keys()
        connection = self.connect(urllib.parse.urlsplit(self.config["global_endpoint"]).netloc)
        base = f"/{scope}/registrations/{rid}"

        def ask(method, path, body=None, **headers):
            connection.request(method, f"{base}{path}?{API}", body=body and json.dumps(body),
                               headers={"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read() or b"{}")

        try:
            status, body = ask("PUT", "/register", {"registrationId": rid,
                                                    "tpm": {"endorsementKey": ek, "storageRootKey": srk}})
            if status != 401 or "authenticationKey" not in body:
                raise IdentitydFailed(f"DPS client error: {status} {body}")
            self.tpmd.import_key(base64.b64decode(body["authenticationKey"]))
            token = self.token(f"{scope}/registrations/{rid}", int(self.world.now()) + self.world.token_sec, self.tpmd.sign)
            headers = {"Authorization": f"SharedAccessSignature {token}&skn=registration"}
            status, body = ask("PUT", "/register", {"registrationId": rid}, **headers)
            if status != 202:
                raise IdentitydFailed(f"DPS client error: {status} {body}")
            while body.get("status") == "assigning":
                time.sleep(0.1)
                status, body = ask("GET", f"/operations/{body['operationId']}", **headers)
            if body.get("status") != "assigned":
                raise IdentitydFailed(f"DPS client error: {status} {body}")
            state = body["registrationState"]
            if state.get("tpm"):
                self.tpmd.import_key(base64.b64decode(state["tpm"]["authenticationKey"]))
            return state["assignedHub"], state["deviceId"]
        finally:
            connection.close()

    # --- its API ---

    async def identity_for_edged(self):
        self.manager.trigger(SERVICE)
        await self.ready.wait()
        if not self.identity:
            raise IdentitydFailed("device identity not found")
        return self.identity

    async def on_client(self, reader, writer):
        self.clients.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
            await reader.readexactly(int(size[1]) if size else 0)  # what is not read by the end resets the connection
            self.manager.trigger(SERVICE)
            how = self.world.fault("identityd")
            self.world.log("connected")  # the fault may be taken away from now on
            if how == "silent":
                await asyncio.get_running_loop().create_future()
            while self.world.fault("identityd") == "hold":
                await asyncio.sleep(0.02)
            await self.ready.wait()
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            path = urllib.parse.unquote(target.partition("?")[0])
            told = (self.world.fault("identityd-status") or {}).get(f"{method} {path}")
            self.world.log("asked", method=method, path=path)
            if isinstance(told, list):
                status, body = told
            else:
                status, body = (told, {"message": f"told to answer {told}"}) if told else await self.answer(method, path)
            text = json.dumps(body).encode() if body is not None else b""
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
                         "Connection: close\r\n\r\n".encode() + text)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.clients.discard(writer)
            writer.close()

    async def answer(self, method, path):
        if (method, path) == ("GET", "/identities/provisioning"):
            return 200, {"source": "dps", "auth": "tpm", "endpoint": self.config.get("global_endpoint"),
                         "scope_id": self.config.get("scope_id"), "payload": None,
                         "registration_id": self.config.get("attestation", {}).get("registration_id")}
        if (method, path) == ("POST", "/identities/device/reprovision"):
            return await self.reprovision()
        if not self.identity:
            return 400, {"message": "device identity not found"}
        if (method, path) == ("POST", "/identities/device"):
            hub, device = self.identity
            return 200, {"type": "aziot", "spec": {"hubName": hub, "gatewayHost": hub, "deviceId": device,
                                                   "auth": {"type": "tpm"}}}
        if (method, path) == ("GET", "/identities/modules/$edgeAgent"):
            try:
                status = await asyncio.to_thread(self.ask_hub, "GET", "$edgeAgent")
            except (OSError, IdentitydFailed):
                status = 0
            if status == 200:
                return 200, {"type": "aziot", "spec": {"moduleId": "$edgeAgent"}}
            return 404, {"message": "Hub client error\ncaused by: module $edgeAgent not found"}
        return 404, {"message": "not found"}

    async def reprovision(self):
        """Forgets who it is before it asks DPS."""
        self.world.log("told-to-reprovision")
        self.world.path("/var/lib/aziot/identityd/device_info").unlink(missing_ok=True)
        self.identity = None
        try:
            async with self.lock:
                await self.register()
                await self.reconcile(may_register=False)
        except (IdentitydFailed, OSError, TSS2_Exception) as error:
            return 404, {"message": f"DPS client error: {error}"}
        return 204, None
