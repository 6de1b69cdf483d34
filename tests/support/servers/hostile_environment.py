"""Wrong values for all variables and files that libpq reads. They must not affect duro."""

from pathlib import Path

_VARIABLES = {
    "PGHOST": "192.0.2.1",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGDATABASE": "elsewhere",
    "PGUSER": "somebody",
    "PGPASSWORD": "wrong",
    "PGSERVICE": "elsewhere",
    "PGOPTIONS": "-c search_path=elsewhere -c default_transaction_read_only=on -c statement_timeout=1",
    "PGAPPNAME": "somebody",
    "PGSSLMODE": "verify-full",
    "PGREQUIRESSL": "1",
    "PGSSLNEGOTIATION": "nonsense",
    "PGSSLROOTCERT": "/nowhere/root.crt",
    "PGSSLCERT": "/nowhere/postgresql.crt",
    "PGSSLKEY": "/nowhere/postgresql.key",
    "PGSSLCRL": "/nowhere/root.crl",
    "PGSSLMINPROTOCOLVERSION": "nonsense",
    "PGSSLMAXPROTOCOLVERSION": "nonsense",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "gss",
    "PGREQUIREPEER": "nobody",
    "PGGSSENCMODE": "require",
    "PGKRBSRVNAME": "elsewhere",
    "PGGSSLIB": "nonsense",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "nonsense",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGCLIENTENCODING": "latin1",
    "PGDATESTYLE": "German",
    "PGTZ": "Nonsense/Zone",
    "PGGEQO": "off",
    "PGDATA": "/nowhere/data",
    "PGSYSCONFDIR": "/nowhere",
    "PGLOCALEDIR": "/nowhere",
    "PSQLRC": "/nowhere/psqlrc",
    "LANG": "xx_YY",
    "LC_ALL": "xx_YY.nonsense",
    "LC_MESSAGES": "tr_TR.UTF-8",
    "TZ": "Nonsense/Zone",
}


def hostile_environment(home: Path) -> dict[str, str]:
    """Writes the files to `home` and returns the variables."""
    (home / ".postgresql").mkdir()
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (home / ".postgresql" / name).write_text("nonsense")
    passwords, services = home / ".pgpass", home / ".pg_service.conf"
    passwords.write_text("*:*:*:*:wrong\n")
    passwords.chmod(0o600)
    services.write_text("[elsewhere]\nhost=192.0.2.1\nport=1\nsslmode=verify-full\n")
    return {
        **_VARIABLES,
        "HOME": str(home),
        "PGPASSFILE": str(passwords),
        "PGSERVICEFILE": str(services),
    }
