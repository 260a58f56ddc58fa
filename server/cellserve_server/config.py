"""Every limit and setting of the server, with its unit in its name, its default, and what it is for.

Each is a flag of ``cellserve serve`` (``--max-sessions``) and an environment variable (``CELLSERVE_MAX_SESSIONS``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

MIB = 1 << 20


DAY_S = 86_400.0
INT32_MAX = (1 << 31) - 1
DURABILITIES = ("sync", "async")
TENANT_PLACES = ("", "cn", "uri")
TRACINGS = ("off", "otlp", "console")


# How a limit holds for a single tenant: of what is SHARED it has a part, in all; what is OF_ONE message, session or
# stream is the same for it. Both may be lowered for it by the file of quotas.
SHARED, OF_ONE = "shared", "of one"


def _setting(
    default: Any,
    help_text: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    secret: bool = False,
    tenant: str = "",
) -> Any:
    metadata = {"help": help_text, "minimum": minimum, "maximum": maximum, "tenant": tenant}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True)
class ServerConfig:
    """The server's settings. Defaults suit one machine of a few cores."""

    # Where
    host: str = _setting("127.0.0.1", "The address to listen on. Another one than loopback needs TLS, or --insecure.")
    port: int = _setting(50051, "The TCP port; 0 picks a free one.", 0, 65_535)
    insecure: bool = _setting(False, "Listen without TLS on an address that other machines reach.")
    tls_cert: str = _setting(
        "", "The server's certificate, its issuers' after it, in PEM: TLS alone is spoken. Read again when it changes."
    )
    tls_key: str = _setting("", "Its private key, in PEM, without a passphrase.")
    tls_client_ca: str = _setting(
        "", "Who issues clients' certificates, in PEM: a client has to show one, and other replicas show --tls-cert."
    )
    tls_ca: str = _setting(
        "",
        "Who issues the certificates of other replicas, in PEM; without it --tls-client-ca, or those that this machine "
        "trusts.",
    )
    tls_server_name: str = _setting(
        "", "The name that the certificates of other replicas are for; without it the host of their address."
    )
    # Who may come in. With any of the first three, everybody has to say who he is.
    tokens_file: str = _setting(
        "",
        "The tokens that are known, by their digests: lines of `cellserve token new`. Read again when it changes.",
    )
    jwks_file: str = _setting(
        "", "Whose JWTs are good: the issuer's public keys (JWKS). Needs PyJWT. Read again when it changes."
    )
    tls_tenant_from: str = _setting(
        "", "With --tls-client-ca: cn or uri, where in clients' certificates the tenant stands. Tokens go first."
    )
    jwt_issuer: str = _setting("", "With --jwks-file: who JWTs have to be from (iss).")
    jwt_audience: str = _setting("", "With --jwks-file: whom JWTs have to be for (aud).")
    jwt_tenant_claim: str = _setting("tenant", "The claim of a JWT in which the tenant stands.")
    jwt_rights_claim: str = _setting(
        "scope", "The claim of a JWT in which rights stand: cellserve:admin, cellserve:metrics; a text or a list."
    )
    max_remembered_grants: int = _setting(
        10_000, "JWTs and clients' certificates that are not verified anew with each request; the rest are.", 1
    )

    # Models, pages, logs
    models: str = _setting("models", "The folder of models: <name>/<version>/cell.json and weights.safetensors.")
    models_poll_s: float = _setting(
        5.0, "How often that folder is looked at for new versions, in seconds; 0: never.", 0
    )
    http_host: str = _setting("127.0.0.1", "The address of the metrics page and the inspector.")
    http_port: int = _setting(
        9464,
        "The port of the metrics page (/metrics); 0 picks a free one, -1 turns it off. A port that is taken is an "
        "error, but with --port 0 a free one is picked.",
        -1,
        65_535,
    )
    inspector: bool = _setting(
        False,
        "Show what the server and its sessions do, their states too, at /inspector/ beside the metrics page: to "
        "everyone who reaches --http-host, without a password.",
    )
    inspector_max_watches: int = _setting(
        16, "Sessions (rows of them) that the inspector's pages may show at once.", 1, 1024, tenant=SHARED
    )
    inspector_window_steps: int = _setting(
        512, "Steps of each of them that the server keeps for pages that ask late or join in.", 1, 65_536
    )
    inspector_watch_bytes: int = _setting(
        16 * MIB, "Bytes of these steps, for each of them; of large states there are fewer.", 1024
    )
    log_level: str = _setting("info", "debug, info, warning or error.")
    log_format: str = _setting("auto", "json, console, or auto: console on a terminal, json elsewhere.")
    tracing: str = _setting(
        "off",
        "off, otlp (to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, by HTTP) or console (to standard error). "
        "Sampler, headers, service name and limits are those of the OTEL_* variables.",
    )

    # Messages
    max_message_bytes: int = _setting(
        16 * MIB, "The largest message, in either direction.", 1024, 1024 * MIB, tenant=OF_ONE
    )
    max_message_parts: int = _setting(
        262_144,
        "Fields, and messages within it, of a message above 1 MiB: tensors are one each, small ones take a hundred "
        "times their bytes of memory.",
        1024,
    )
    max_sequence_steps: int = _setting(10_000, "The steps of one RunSequence.", 1, INT32_MAX, tenant=OF_ONE)
    max_rows: int = _setting(
        4096, "The rows (batch size) of one session, call or sequence.", 1, INT32_MAX, tenant=OF_ONE
    )
    max_concurrent_rpcs: int = _setting(
        4096,
        "RPCs under way at once; more are refused with QUEUE_FULL.",
        1,
        INT32_MAX,
        tenant=SHARED,
    )

    # Connections
    max_connection_rpcs: int = _setting(
        4096, "RPCs under way at once on one connection; more wait at the client, by HTTP/2's own means.", 1, INT32_MAX
    )
    keepalive_s: float = _setting(
        60.0, "After how long a silent connection is asked whether it is still there, in seconds.", 1, DAY_S
    )
    keepalive_timeout_s: float = _setting(
        20.0, "How long the answer to that may take until the connection counts as lost, in seconds.", 1, DAY_S
    )
    min_ping_interval_s: float = _setting(
        10.0, "Clients that ping a silent connection more often, again and again, are cut off; in seconds.", 0, DAY_S
    )
    max_connection_idle_s: float = _setting(
        3600.0, "After how long without an RPC a connection is closed, in seconds; 0: never.", 0, DAY_S
    )
    max_connection_age_s: float = _setting(
        0.0,
        "After how long connections are asked to be made anew, in seconds, so that clients spread over new replicas; "
        "0: never.",
        0,
        30 * DAY_S,
    )
    max_connection_age_grace_s: float = _setting(
        60.0, "How long RPCs on such a connection, streams too, may go on, in seconds.", 1, DAY_S
    )

    # Queue and ticks
    max_queued_runs: int = _setting(
        16_384, "Runs that wait or are under way; more are refused with QUEUE_FULL.", 1, tenant=SHARED
    )
    max_queued_bytes: int = _setting(256 * MIB, "Bytes of the inputs and outputs of these runs.", 1024, tenant=SHARED)
    max_steps_per_s: float = _setting(
        0.0,
        "Steps a second, time steps of sequences too: more in streams wait, in calls are refused; 0: as many as the "
        "machine can.",
        0,
        1e9,
        tenant=SHARED,
    )
    max_tick_rows: int = _setting(1024, "Rows that one tick takes at most (a larger run is taken alone).", 1)
    max_shared_tick_rows: int = _setting(
        64, "The same while several tenants have work: so long one waits for another's tick.", 1
    )
    max_tick_us: int = _setting(
        100_000,
        "How long a tick may be predicted to compute, in microseconds, which bounds its rows too; one run it takes at "
        "least.",
        0,
    )
    max_chunk_steps: int = _setting(
        32, "Time steps by which a tick moves longer runs on at most; a Step waits for no more of them.", 1, 10_000
    )
    max_chunk_us: int = _setting(
        1000, "How long such a tick may be predicted to compute, in microseconds; one time step it has at least.", 0
    )
    inline_tick_us: int = _setting(
        4000, "A tick predicted to be shorter runs on the event loop, a longer one in a thread; in microseconds.", 0
    )
    at_once_us: int = _setting(
        150,
        "A single step that finds nothing else to do (while tenants share, nothing else of its own), and is predicted "
        "to be shorter, is done as it comes, without a tick; in microseconds.",
        0,
    )
    queue_full_retry_ms: int = _setting(
        50, "What RetryInfo says when the queue is full, in milliseconds.", 1, 3_600_000
    )

    # Sessions
    max_sessions: int = _setting(
        1_000_000,
        "Sessions in memory. With a store idle ones leave it for others, and there may be twice as many for a while; "
        "without one more are refused.",
        1,
        tenant=SHARED,
    )
    max_state_bytes: int = _setting(
        4096 * MIB,
        "Bytes of the states of the sessions in memory, both copies counted; as with --max-sessions.",
        1024,
        tenant=SHARED,
    )
    max_state_rows: int = _setting(
        16 * MIB, "Rows of the sessions in memory; as with --max-sessions.", 1, tenant=SHARED
    )
    max_stored_sessions: int = _setting(
        10_000_000, "Sessions of one tenant with a store, those that are in the store alone too.", 1, tenant=OF_ONE
    )
    max_stored_model_bytes: int = _setting(
        4096 * MIB,
        "Bytes of the models of one tenant's clients that this server has put into the store, which has them for twice "
        "max_ttl_s.",
        0,
        tenant=OF_ONE,
    )
    default_ttl_s: float = _setting(3600.0, "How long an unused session lives when it does not say, in seconds.", 0.001)
    max_ttl_s: float = _setting(
        7 * DAY_S, "The longest ttl that a session may ask for, in seconds.", 0.001, 3650 * DAY_S
    )
    max_tombstones: int = _setting(100_000, "Ended sessions whose reason for ending is remembered in memory.", 0)
    max_remembered_requests: int = _setting(100_000, "request_ids whose answers are remembered.", 1, tenant=SHARED)
    remember_requests_s: float = _setting(600.0, "How long an answer to a request_id is remembered, in seconds.", 1)

    # Where sessions are kept
    store: str = _setting(
        "memory:",
        "Where sessions are kept: memory: (they end with the process), sqlite:PATH (a file of this machine), "
        "redis://HOST:PORT/DB or rediss://... (Redis or Valkey, for several replicas). A URL with a password belongs "
        "in a file that CELLSERVE_STORE_FILE names, not here.",
        secret=True,
    )
    durability: str = _setting(
        "sync",
        "With a store: sync (every step is written before it is answered) or async (once in --flush-interval-ms; a "
        "crash may lose the last two intervals).",
    )
    flush_interval_ms: int = _setting(
        1000, "With async: how often what has changed is written, in milliseconds.", 10, 60_000
    )
    store_fsync: bool = _setting(
        False, "sqlite: has every commit reach the disk, so that the loss of power loses nothing either."
    )
    store_timeout_ms: int = _setting(
        2000,
        "How long the store is waited for, in milliseconds: redis: connecting, and each answer; sqlite: another "
        "process's lock.",
        10,
        60_000,
    )
    advertise: str = _setting(
        "",
        "HOST:PORT by which clients and other replicas reach this one, its own for each replica; without it the "
        "address listened on, which will not do for 0.0.0.0.",
    )
    takeover_timeout_ms: int = _setting(
        1000,
        "How long another replica is waited for that is asked to let sessions go, in milliseconds; then they are "
        "taken from it.",
        1,
        60_000,
    )
    tombstone_ttl_s: float = _setting(
        600.0, "How long the store remembers why a session ended, and keeps a damaged record, in seconds.", 0.001, DAY_S
    )

    # Streams
    stream_window_messages: int = _setting(64, "Unanswered Steps of one stream before the server stops reading.", 1)
    stream_window_steps: int = _setting(4096, "Steps in these messages before the server stops reading.", 1)
    stream_window_bytes: int = _setting(
        64 * MIB, "Bytes of the inputs and outputs of these Steps before the server stops reading.", 1024
    )
    max_streams: int = _setting(2048, "Streams that are open at once.", 1, tenant=SHARED)
    max_stream_groups: int = _setting(256, "Groups of one stream.", 1, tenant=OF_ONE)
    max_stream_handles: int = _setting(1_048_576, "Handles of one stream.", 1, tenant=OF_ONE)

    # Tenants
    tenant_share: float = _setting(
        0.5,
        "The part of each limit of sessions, states, queue, steps a second, streams, RPCs, remembered requests, "
        "watches and bytes of defined models that one tenant may take. Where nobody is asked for an identity all are "
        "one tenant, which may take all.",
        0.001,
        1,
    )
    quotas_file: str = _setting(
        "",
        "A TOML file with other limits of tenants, of the settings' names, under [every_tenant] and [tenants.NAME]; "
        "it is read again when it changes.",
    )

    # Models
    max_defined_models: int = _setting(64, "Models that clients define, of one tenant.", 0)
    max_defined_model_bytes: int = _setting(
        512 * MIB, "Bytes of the weights and descriptions of these models, of one tenant.", 0
    )
    max_defined_bytes: int = _setting(4096 * MIB, "The same of all tenants together.", 0, tenant=SHARED)
    defined_model_ttl_s: float = _setting(3600.0, "How long an unused defined model stays, in seconds.", 0.001)

    define_idle_timeout_s: float = _setting(
        30.0, "How long DefineModel waits for the next piece of a model's weights, in seconds.", 0.001, DAY_S
    )

    # Stopping
    drain_timeout_s: float = _setting(
        30.0, "How long SIGTERM waits for running work, in seconds; then states are written to the store.", 0, DAY_S
    )

    @property
    def has_identity(self) -> bool:
        """Whether callers have to say who they are."""
        return bool(self.tokens_file or self.jwks_file or self.tls_tenant_from)

    def __post_init__(self) -> None:
        for item in fields(self):
            value, minimum, maximum = getattr(self, item.name), item.metadata["minimum"], item.metadata["maximum"]
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{item.name}: expected a finite number; got {value}")
            if minimum is not None and value < minimum:
                raise ValueError(f"{item.name}: expected at least {minimum}; got {value}")
            if maximum is not None and value > maximum:
                raise ValueError(f"{item.name}: expected at most {maximum}; got {value}")
        if bool(self.tls_cert) != bool(self.tls_key):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ValueError(f"{missing}: expected a file, since {given} is given; got none")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca: expected tls_cert and tls_key with it; got none")
        if self.jwks_file and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("jwks_file: expected jwt_issuer and jwt_audience with it; got none")
        if self.tls_tenant_from not in TENANT_PLACES:
            raise ValueError(f"tls_tenant_from: expected cn or uri; got {self.tls_tenant_from!r}")
        if self.tls_tenant_from and not self.tls_client_ca:
            raise ValueError("tls_tenant_from: expected tls_client_ca with it; got none")
        if self.durability not in DURABILITIES:
            raise ValueError(f"durability: expected {' or '.join(DURABILITIES)}; got {self.durability!r}")
        if self.tracing not in TRACINGS:
            raise ValueError(f"tracing: expected one of {', '.join(TRACINGS)}; got {self.tracing!r}")
        if 0 < self.models_poll_s < 1:
            raise ValueError(f"models_poll_s: expected 0 or at least 1; got {self.models_poll_s}")
        if self.inspector and self.http_port == -1:
            raise ValueError("inspector: expected http_port to be on, for it is a page there; got -1")
        for name in ("default_ttl_s", "defined_model_ttl_s"):
            if getattr(self, name) > self.max_ttl_s:
                raise ValueError(f"{name}: expected at most max_ttl_s, {self.max_ttl_s}; got {getattr(self, name)}")
