"""Settings of a session beside those that a site has."""

import pytest

from jobs.errors import BadInput
from jobs.session import CATALOG, CORRECTNESS, EXTENSIONS, build_session, delta_beside

DELTA = CORRECTNESS[EXTENSIONS]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, DELTA),
        ({EXTENSIONS: ""}, DELTA),
        ({EXTENSIONS: "org.site.Extensions"}, f"org.site.Extensions,{DELTA}"),
        ({EXTENSIONS: f"{DELTA},org.site.Extensions"}, f"{DELTA},org.site.Extensions"),
    ],
)
def test_extensions_of_a_site_stay(given: dict[str, str], expected: str) -> None:
    """Delta's comes after them, once."""
    assert delta_beside(given)[EXTENSIONS] == expected


def test_a_catalog_of_a_site_stays() -> None:
    """Such as one that wraps Delta's; without one it is Delta's."""
    assert delta_beside({CATALOG: "org.site.Catalog"})[CATALOG] == "org.site.Catalog"
    assert delta_beside({})[CATALOG] == CORRECTNESS[CATALOG]


def test_a_setting_that_is_none_is_refused() -> None:
    """Spark would take it and ignore it."""
    with pytest.raises(BadInput, match=r"shuffle\.partitions: expected a setting that starts with 'spark\.'"):
        build_session(None, {"shuffle.partitions": "2"})
