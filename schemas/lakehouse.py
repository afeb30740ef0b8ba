"""Every table of a lakehouse for one catalog, in the order in which `u2qt init` creates them."""

from schemas.audits import AUDITS
from schemas.catalog import Catalog
from schemas.code_crosswalk import CODE_CROSSWALK
from schemas.codebook_quality import CODEBOOK_QUALITY
from schemas.deliveries import DELIVERIES
from schemas.forgotten import FORGOTTEN
from schemas.quarantine import quarantine
from schemas.runs import RUNS
from schemas.source_events import source_events
from schemas.table import Table
from schemas.tokenizers import PROMOTIONS, TOKENIZERS
from schemas.user_features import user_features
from schemas.user_tokens import staged_user_tokens, user_tokens, user_tokens_superseded


def tables(catalog: Catalog) -> tuple[Table, ...]:
    return (
        *(source_events(s) for s in catalog.sources),
        *(quarantine(s.name) for s in catalog.sources),
        DELIVERIES,
        user_features(catalog),
        TOKENIZERS,
        CODEBOOK_QUALITY,
        staged_user_tokens(catalog),
        AUDITS,
        user_tokens(catalog),
        user_tokens_superseded(catalog),
        PROMOTIONS,
        CODE_CROSSWALK,
        FORGOTTEN,
        RUNS,
    )
