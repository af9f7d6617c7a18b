def serve(
    fd: int,
    *,
    tls_cert: str | bytes | None = None,
    tls_key: str | bytes | None = None,
    secret: bytes,
    ledger_fd: int = -1,
    slot: int = 0,
    device: str = "cpu",
    model: str,
    memory_bytes: int,
    emulated: bool,
    torch_threads: int = 0,
    libraries: list[str] = ...,
    grace_seconds: float = 0.0,
    control_fd: int = -1,
    client_pidfd: int = -1,
) -> str: ...
def operator_digest() -> bytes: ...
