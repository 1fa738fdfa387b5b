"""Variables of the catalogue: what may come into it, who may look into it, and a table of somebody else's."""

from dataclasses import dataclass
from pathlib import Path

from app import parse


@dataclass(frozen=True, kw_only=True)
class CatalogueVariables:
    """What is known of models, and from where."""

    file_folders: tuple[Path, ...] = parse.variable(
        (),
        parse.folders,
        "folders below which `file://` addresses that come through the API may lead, separated by commas; none: only "
        "requests from this computer, where there are no tokens, may name files",
        "/srv/models",
    )
    catalog_table: str = parse.variable(
        "",
        parse.text,
        "an existing table or view that the catalogue is read from (docs/provisioning.md); our own unless set",
        "public.models",
    )
    catalog_database_url: str = parse.variable(
        "",
        parse.url,
        "the database that it is in; DATABASE_URL unless set",
        "postgresql+psycopg://reader@db/emprops",
        secret=True,
    )
    catalog_columns: tuple[tuple[str, str], ...] = parse.variable(
        (),
        parse.pairs,
        "how its columns are called where that differs, as `ours=theirs`; nothing behind `=`: there is no such column",
        "name=filename,file_size_gb=size,description=",
    )
    catalog_size_unit: str = parse.variable(
        "GB", parse.one_of("bytes", "MB", "GB"), "in what its sizes are: `bytes`, `MB` or `GB`", "bytes"
    )
    catalog_seconds: int = parse.variable(
        60, parse.number(1, 10**6), "how often it is looked through for models that jobs may name", "60"
    )
    catalog_requests_per_minute: int = parse.variable(
        0,
        parse.number(0, 10**9),
        "most requests of one address in a minute to `/api/models/…`, which needs no token; 0: no limit",
        "120",
    )
