"""From what Redis reports to what the seam promises."""

from __future__ import annotations

from ssl import SSLCertVerificationError, SSLError

from redis import exceptions

from ojs_core.errors import BackendUnavailableError, SettingsError

_MESSAGES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.BusyLoadingError, "Redis is starting: it loads its data from disk."),
    (exceptions.ReadOnlyError, "This Redis is a replica, which takes no writes."),
    (exceptions.OutOfMemoryError, "Redis is out of memory (maxmemory is reached)."),
    (exceptions.AuthenticationError, "Redis refused the user name or password."),
    (exceptions.NoPermissionError, "Redis does not allow this user what a store needs."),
    (exceptions.ClusterError, "The cluster cannot serve this store now."),
    (exceptions.TimeoutError, "Redis did not answer in time."),
    (exceptions.ConnectionError, "Redis cannot be reached."),
    (OSError, "Redis cannot be reached."),
)
_BY_CODE = {
    "LOADING": "Redis is starting: it loads its data from disk.",
    "READONLY": "This Redis is a replica, which takes no writes.",
    "OOM": "Redis is out of memory (maxmemory is reached).",
    "NOAUTH": "Redis wants a password.",
    "WRONGPASS": "Redis refused the user name or password.",
    "NOPERM": "Redis does not allow this user what a store needs.",
    "CLUSTERDOWN": "The cluster cannot serve this store now: a part of it is down.",
    "TRYAGAIN": "The cluster is moving this store to another node.",
    "ASK": "The cluster is moving this store to another node.",
    "MOVED": "The cluster has moved this store to another node.",
    "MASTERDOWN": "This Redis is a replica that has lost its master.",
    "MISCONF": "Redis takes no writes, because it cannot save to its disk.",
    "NOREPLICAS": "Redis takes no writes: too few replicas are connected (min-replicas-to-write).",
    "BUSY": "Redis is busy with a script of somebody else.",
    "UNBLOCKED": "Redis became a replica while it was asked.",
}
"""By the first word of an error reply."""


def code_of(error: Exception) -> str:
    """Return the first word of an error reply, by which Redis says what kind it is."""
    # redis-py cuts the word off where it has a class for it.
    return getattr(error, "status_code", None) or str(error).partition(" ")[0]


def _tls_message(error: BaseException | None) -> str | None:
    """Return what to say if TLS is what failed, however deep it was wrapped."""
    while error is not None and not isinstance(error, SSLError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    if isinstance(error, SSLCertVerificationError) and error.verify_code in _OTHER_NAME:
        return "Redis cannot be reached with TLS: its certificate is for another name than the one in REDIS_URL."
    return "Redis cannot be reached with TLS: its certificate is not trusted (SSL_CERT_FILE names those that are)."


_OTHER_NAME = (62, 64)
"""OpenSSL's numbers for a certificate that has not the name, or the address, that was asked for."""


def unavailable(error: Exception) -> BackendUnavailableError:
    """Return what to raise for an error of the client or an error reply, its cause chained; it names no address."""
    message = _BY_CODE.get(code_of(error))
    if message is None:
        message = _tls_message(error)
    if message is None:
        message = next((text for kind, text in _MESSAGES if isinstance(error, kind)), "Redis refused the operation.")
    wrapped = BackendUnavailableError(message)
    wrapped.__cause__ = error
    return wrapped


def as_setting(error: BaseException | None) -> SettingsError | None:
    """Return what to raise at the start for an error that will not pass by waiting: who we say we are is refused."""
    refused = isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError)
    if isinstance(error, Exception) and (refused or code_of(error) in ("NOAUTH", "WRONGPASS", "NOPERM")):
        return SettingsError(f"REDIS_URL: {unavailable(error)} Correct it, or what the user may do (ACL SETUSER).")
    return None


def closed() -> BackendUnavailableError:
    """Return what to raise for an operation on a store that is not open."""
    return BackendUnavailableError("The connection to Redis is not open.")
