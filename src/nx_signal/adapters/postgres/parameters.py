"""The parameters of a database's address: libpq's, and those that providers, poolers and other drivers add.

Source: PostgreSQL 18, "Parameter Key Words"; the documentation of PgBouncer, pgx, JDBC, node-postgres,
Prisma, SQLAlchemy, Neon and Supabase. Names are compared without case and underscores."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


IGNORED = _names(
    # what the deadlines and the pool of this service decide
    "fallbackapplicationname keepalives keepalivesidle keepalivesinterval keepalivescount tcpusertimeout"
    " tcpkeepalive tcpkeepalives connectionlimit pooltimeout poolsize minpoolsize maxpoolsize poolmaxconns"
    " poolminconns poolmaxconnlifetime poolmaxconnidletime maxoverflow sockettimeout logintimeout"
    " canceltimeout querytimeout statementtimeout idleintransactionsessiontimeout"
    " idlesessiontimeout loadbalancehosts maxidleconnectionlifetime hostrecheckseconds"
    # what the driver does always, or never
    " clientencoding timezone datestyle intervalstyle standardconformingstrings extrafloatdigits"
    " sslcompression sslsni sslcertmode sslkeylogfile gssencmode krbsrvname gsslib gssdelegation"
    " minprotocolversion maxprotocolversion binaryparameters rewritebatchedinserts stringtype"
    " defaultrowfetchsize assumeminserverversion uselibpqcompat schemacachemode jit plancachemode"
    # what providers add for their own use
    " supa workaround keepaliveidle charset serverversion"
)
"""They change nothing that this service depends on; that they are ignored is logged once."""

REFUSED = {
    "replication": "a replication connection cannot be used",
    "requireauth": "the way of authentication cannot be restricted here: restrict it in pg_hba.conf",
    "requirepeer": "the owner of a Unix socket cannot be required here: protect the socket's directory",
    "sslcrldir": "a directory of revoked certificates cannot be used: name a file with sslcrl",
    "scramclientkey": "a SCRAM key cannot be used: give the password",
    "scramserverkey": "a SCRAM key cannot be used: give the password",
    "oauthissuer": "OAuth cannot be used to sign in: give a user with a password",
    "oauthclientid": "OAuth cannot be used to sign in: give a user with a password",
}
"""Ignoring one of these would be less safe than what was asked for, or cannot work."""

UNPREPARED = {
    "statementcachesize": "0",
    "preparedstatementcachesize": "0",
    "statementcachecapacity": "0",
    "maxautoprepare": "0",
    "preparethreshold": "0",
    "preparedstatementcachequeries": "0",
    "preferquerymode": "simple",
    "defaultqueryexecmode": "simple_protocol",
    "prefersimpleprotocol": "true",
    "preparedstatements": "false",
}
"""The values by which users of other drivers state that a pooler in transaction mode is in front."""

SETTINGS = {
    "role": "role",
    "locktimeout": "lock_timeout",
    "workmem": "work_mem",
    "synchronouscommit": "synchronous_commit",
}
"""Settings of a session that are taken from the address itself; others go into `options`."""

SSL_WORDS = {
    **dict.fromkeys(("true", "1", "on", "yes", "require", "required", "no-verify"), "require"),
    **dict.fromkeys(("false", "0", "off", "no", "disabled"), "disable"),
}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TARGETS = ("any", "read-write", "primary", "readwrite", "master")
"""Each means the same: this service writes."""

TAKEN = _names(
    "host hostaddr port dbname database user username password passfile connecttimeout applicationname"
    " options"
    " sslmode ssl requiressl sslaccept sslnegotiation sslcert sslkey sslpassword sslrootcert sslcrl"
    " sslminprotocolversion sslmaxprotocolversion channelbinding targetsessionattrs targetservertype"
    " service servicefile pgbouncer poolmode schema currentschema searchpath"
)

KNOWN = (*sorted(TAKEN), *UNPREPARED, *SETTINGS, *REFUSED, *sorted(IGNORED))


def canonical(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
