"""What the doctor says where a right on a table of OAR's is missing that not everything needs."""

from oar_accounting.health.records import Finding


def is_denied(error: object) -> bool:
    """True where it is a right that is missing."""
    return "permission denied" in str(error) or "command denied" in str(error)


def unread_finding(  # noqa: PLR0913 - a finding, and what decides it
    subject: str, said: str, table: str, unread: str, role: str | None, mend: str
) -> Finding:
    """What is said where *unread* tells why a table of OAR's cannot be read.

    *said*: what comes of it for the records; *mend*: the command that gives the *role* the right.
    """
    why = unread
    if role is not None and is_denied(unread):
        why = f"the role {role} may not read OAR's table {table}; roles.sql lets it"
    said = (
        f"{said}: {why}. What is recorded by then is read again by oar-accounting rebuild "
        "--from-oar"
    )
    return Finding("warning", subject, said, mend if why != unread else "")
